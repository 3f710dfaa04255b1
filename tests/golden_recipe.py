"""The weights and images behind the golden values; the recipe in words is in golden/README.md."""

import zlib
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent / "golden"

# Name of the case → depth, width, classes, height, width of the images.
CASES = {
    "R26x1_64x64": (26, 1, 10, 64, 64),
    "R50x1_224x224": (50, 1, 1000, 224, 224),
    "R50x1_65x97": (50, 1, 1000, 65, 97),
    "R101x1_64x64": (101, 1, 1000, 64, 64),
    "R50x3_64x64": (50, 3, 10, 64, 64),
    "R152x2_48x80": (152, 2, 10, 48, 80),
}

LABELS = np.array([0, 3, 7, 9])
LEARNING_RATE, MOMENTUM = 0.001, 0.9
HEAD_KERNEL = "resnet/head/conv2d/kernel"


def parameter(key, shape):
    """The float32 value of the parameter `key`, whose shape in an npz file is `shape`."""
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    normal = rng.standard_normal(shape, dtype=np.float32)
    if key.endswith("/gamma"):
        return np.float32(1) + np.float32(0.1) * normal
    if key.endswith(("/beta", "/bias")):
        return np.float32(0.1) * normal
    return np.float32(0.01 if key == HEAD_KERNEL else 0.05) * normal


def variables(model):
    """The model's variables by npz key."""
    return {
        "/".join(["resnet", *layer.name.split("."), variable.name]): variable
        for layer in model.layers
        for variable in layer.weights
    }


def fill(model):
    """Gives every parameter of the model its golden value."""
    for key, variable in variables(model).items():
        shape = tuple(variable.shape)
        value = parameter(key, (1, 1, *shape) if key == HEAD_KERNEL else shape)
        variable.assign(value.reshape(shape))
    return model


def forward_images(height, width):
    return np.random.default_rng(0).uniform(-1, 1, (2, height, width, 3))


def train_images():
    return np.random.default_rng(1).uniform(-1, 1, (4, 64, 64, 3))


def load(name):
    """The arrays of a golden file by key."""
    with np.load(GOLDEN / name) as archive:
        return dict(archive)
