"""`npz:PATH`: arrays of images and labels in one file, as Keras' data sets have them."""

from __future__ import annotations

import zipfile
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from bit_keras.sources.base import IndexedSource, parallel
from bit_keras.sources.splits import stratified_split

TEST_FRACTION = 0.2  # where the file has no split of its own
_SPLITS = ("train", "val", "test")


class NpzSource(IndexedSource):
    """Images and labels from arrays, held in memory; see `load_source`.

    Args:
        path: an npz file with x_train, y_train and, if there are, x_val, y_val, x_test, y_test; or
            with images and labels. Images are uint8, or floats in [0, 1], of shape
            [n, height, width], [n, height, width, 1] or [n, height, width, 3]; labels are integers
            from 0, [n] or [n, 1]. An array class_names of strings is optional.
        seed: of the stratified split in train and test of a file with images and labels.
        strict: accepted for symmetry; arrays have no broken files.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for a file that is not such an npz.
    """

    def __init__(self, path: str | PathLike[str], *, seed: int = 0, strict: bool = False) -> None:
        file = Path(path).expanduser()
        name = f"npz:{path}"
        if not file.is_file():
            raise FileNotFoundError(f"There is no file {str(file)!r}. Received: {name!r}")
        arrays = _load(file)
        if "images" in arrays and "labels" in arrays:
            pixels = _checked_images(arrays, "images")
            labels = _checked_labels(arrays, "labels", len(pixels))
            parts = stratified_split(labels, TEST_FRACTION, seed)
            chosen = {s: i for s, i in zip(("train", "test"), parts, strict=True) if len(i)}
            images = {split: pixels[indices] for split, indices in chosen.items()}
            targets = {split: labels[indices] for split, indices in chosen.items()}
        else:
            present = [s for s in _SPLITS if f"x_{s}" in arrays and f"y_{s}" in arrays]
            if "train" not in present:
                raise ValueError(
                    f"{file} must have x_train and y_train, or images and labels. "
                    f"Received: {', '.join(arrays) or 'no arrays'}"
                )
            images = {s: _checked_images(arrays, f"x_{s}") for s in present}
            targets = {s: _checked_labels(arrays, f"y_{s}", len(images[s])) for s in present}
        super().__init__(name, _class_names(arrays, targets), targets, strict=strict)
        with tf.device("CPU"):
            self._tensors = {split: tf.constant(array) for split, array in images.items()}

    def _decoded(self, dataset: tf.data.Dataset, split: str, chosen: np.ndarray) -> tf.data.Dataset:
        """Looks the images up without leaving TensorFlow: several times faster."""
        images, labels = self._tensors[split], self._labels[split]

        def look_up(example: dict[str, Any]) -> dict[str, Any]:
            image = tf.gather(images, example["index"])
            if image.shape.rank == 2:
                image = image[..., None]
            if image.shape[-1] == 1:
                image = tf.repeat(image, 3, axis=-1)
            return {"image": image, "label": tf.gather(labels, example["index"]), **example}

        return parallel(dataset, look_up)


def _load(file: Path) -> dict[str, np.ndarray]:
    try:
        loaded = np.load(file, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise ValueError("it holds a single array; write it with numpy.savez")
        with loaded:
            return {key: loaded[key] for key in loaded.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file} is not a readable npz file: {error}") from error


def _checked_images(arrays: dict[str, np.ndarray], key: str) -> np.ndarray:
    """uint8 [n, H, W], [n, H, W, 1] or [n, H, W, 3]."""
    images = arrays[key]
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[-1] not in (1, 3)):
        raise ValueError(
            f"{key!r} must be [n, height, width], [n, height, width, 1] or [n, height, width, 3]. "
            f"Received: shape {images.shape}"
        )
    if 0 in images.shape:
        raise ValueError(f"{key!r} is empty. Received: shape {images.shape}")
    if images.dtype == np.uint8:
        return images
    low, high = images.min(), images.max()
    # Written so that NaN is refused.
    if not (np.issubdtype(images.dtype, np.floating) and low >= 0 and high <= 1):
        raise ValueError(
            f"{key!r} must be uint8 from 0 to 255, or floats from 0 to 1. "
            f"Received: {images.dtype} from {low} to {high}"
        )
    return np.rint(images * 255).astype(np.uint8)


def _checked_labels(arrays: dict[str, np.ndarray], key: str, count: int) -> np.ndarray:
    labels = arrays[key]
    if labels.shape not in ((count,), (count, 1)):
        raise ValueError(
            f"{key!r} must have one label for each of the {count} images. "
            f"Received: shape {labels.shape}"
        )
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        low = labels.min() if np.issubdtype(labels.dtype, np.number) else "?"
        raise ValueError(
            f"{key!r} must be integers from 0. Received: {labels.dtype}, smallest {low}"
        )
    return labels.reshape(count).astype(np.int64)


def _class_names(arrays: dict[str, np.ndarray], targets: dict[str, np.ndarray]) -> list[str]:
    needed = 1 + max(int(labels.max()) for labels in targets.values())
    if "class_names" not in arrays:
        names = [str(i) for i in range(needed)]
    else:
        names = [str(name) for name in arrays["class_names"].reshape(-1)]
    if len(names) < max(needed, 2):
        raise ValueError(
            f"There must be a name for each of the labels 0 to {needed - 1}, and at least two "
            f"classes. Received: class_names={names}"
        )
    return names
