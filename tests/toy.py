"""A small learnable data set and the options that train on it in seconds."""

import numpy as np

MODEL = "BiT-XS-R26x0.5"
CLASSES = ["dark", "bright", "striped"]


def write_npz(path, train=60, test=21, seed=0):
    """Three classes of noisy 32-pixel images, told apart by brightness and stripes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(train + test) % 3
    images = (
        rng.integers(0, 60, (train + test, 32, 32, 3))
        + np.where(labels == 1, 180, 20)[:, None, None, None]
    )
    images[labels == 2, ::4] += 150
    images = np.clip(images, 0, 255).astype(np.uint8)
    np.savez(
        path, x_train=images[:train], y_train=labels[:train], x_test=images[train:],
        y_test=labels[train:], class_names=np.array(CLASSES),
    )  # fmt: skip
    return f"npz:{path}"


def fast(**changes):
    """Options of a transfer that takes a few seconds."""
    settings = {
        "model": MODEL, "weights": "none", "batch_size": 12, "steps": 20, "resize": 36, "crop": 32,
        "learning_rate": 0.003, "progress": False,
    }  # fmt: skip
    return {**settings, **changes}
