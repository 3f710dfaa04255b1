"""Comparing a written module with the model it was made of."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from bit_keras.modules import answers, endpoints_of
from bit_keras.preprocess import eval_view, to_model_range
from bit_keras.resnet import ResNetV2

# Between the model and its module, relative to the largest output: a graph may fuse operations.
_TOLERANCE = {"float16": 2e-2, "bfloat16": 5e-2}
_FLOAT32_TOLERANCE = 1e-4


class ExportError(RuntimeError):
    """A module that, loaded back, does not compute what the model computes."""


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Without TensorFloat-32, in which a GPU's results depend on the algorithm it picks."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def verify(model: ResNetV2, folder: Path, kind: str, image_size: int, multi_label: bool) -> None:
    """Raises unless the module in `folder` computes what the model computes."""
    endpoints = endpoints_of(model)

    def expect(images: tf.Tensor) -> dict[str, tf.Tensor]:
        if kind == "serving":
            return answers(endpoints, images, multi_label)
        outputs = tf.cast(model(images, training=False), tf.float32)
        return {"outputs": outputs, "outputs in training": outputs}

    module = tf.saved_model.load(str(folder))
    tolerance = _TOLERANCE.get(model.compute_dtype, _FLOAT32_TOLERANCE)
    for case, images, found in _serve(module, image_size) if kind == "serving" else _call(module):
        expected = expect(images)
        if set(expected) != set(found):
            raise ExportError(f"Outputs for {case} are {sorted(found)}, not {sorted(expected)}.")
        # What another rounding of the input does, which deep models amplify a hundredfold.
        noise = tf.constant(np.random.default_rng(1).normal(0, 1e-6, images.shape), tf.float32)
        disturbed = functools.cache(functools.partial(expect, images + noise))
        for name in sorted(expected):
            check_equal(name, case, expected[name], found[name], tolerance, disturbed)


# What was asked, the images in [-1, 1] for the model to answer the same, the module's answers.
_Cases = Iterator[tuple[str, tf.Tensor, dict[str, tf.Tensor]]]


def _random_images() -> Iterator[tf.Tensor]:
    """Batches of two sizes, in [0, 1], the same every time."""
    rng = np.random.default_rng(0)
    for shape in ((2, 64, 64, 3), (1, 65, 97, 3)):
        yield tf.constant(rng.random(shape), tf.float32)


def _call(module: Any) -> _Cases:
    for images in _random_images():
        found = {"outputs": module(images), "outputs in training": module(images, training=True)}
        yield f"images {tuple(images.shape)}", to_model_range(images), found


def _serve(module: Any, image_size: int) -> _Cases:
    for images in _random_images():
        found = module.signatures["serving_default"](images)
        yield f"serving_default, images {tuple(images.shape)}", to_model_range(images), found
    image = tf.constant(np.random.default_rng(0).integers(0, 256, (48, 64, 3)), tf.uint8)
    found = module.signatures["serving_bytes"](tf.io.encode_png(image)[None])
    yield "serving_bytes, one PNG", eval_view(image, image_size)[None], found


def _largest(values: Any) -> float:
    return float(np.max(np.abs(values), initial=0))


def check_equal(
    name: str,
    case: str,
    expected: Any,
    found: Any,
    tolerance: float,
    disturbed: Callable[[], dict[str, Any]],
) -> None:
    """Raises when a module's result differs by more than rounding explains.

    `disturbed` gives the model's results, by name, for an input that was rounded otherwise.
    """
    what = f"{name} for {case}"
    expected, found = np.asarray(expected), np.asarray(found)
    if not np.isfinite(expected).all():
        raise ExportError(
            f"The model's own {what} are not finite, so there is nothing worth publishing. Check "
            "its weights: a training that diverged leaves such."
        )
    if expected.shape != found.shape:
        raise ExportError(f"{what}: the result's shape {found.shape} is not {expected.shape}.")
    difference = _largest(found - expected)
    limit = tolerance * max(1.0, _largest(expected))
    if not difference <= limit:  # also for NaN
        limit = max(limit, 3 * _largest(np.asarray(disturbed()[name]) - expected))
    if not difference <= limit:
        raise ExportError(
            f"{what}: the module, loaded back, differs from the model by {difference:.3g}; up to "
            f"{limit:.3g} is rounding. Nothing was published. This is a fault of bit_keras or "
            "TensorFlow: please report it with the versions of both."
        )
