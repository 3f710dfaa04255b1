"""Publishing a model as a SavedModel: a fine-tunable TF-Hub module, or one that serves.

Published modules take images in [0, 1], as the TF-Hub BiT modules do, and rescale inside. Every
module is loaded back and compared with the model before its folder gets its name.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

import keras
import numpy as np
import tensorflow as tf

from bit_keras.files import replacing
from bit_keras.layers import StandardizedConv2D, folded_kernels
from bit_keras.preprocess import decode_bytes, eval_view, to_model_range
from bit_keras.resnet import ResNetV2
from bit_keras.version import __version__

Kind = Literal["fine-tunable", "serving"]
METADATA = "bit_keras.json"
LABELS = "labels.txt"
# Constants live in the GraphDef, a protocol buffer, which cannot exceed 2 GB.
CONSTANT_BYTES = 1_500_000_000

_IMAGES = tf.TensorSpec([None, None, None, 3], tf.float32, name="images")
_SAVED_MODEL = "saved_model.pb"
_MODULE_FILES = {_SAVED_MODEL, "variables", "assets", "fingerprint.pb", METADATA}
# Between the model and its module, relative to the largest output: a graph may fuse operations.
_TOLERANCE = {"float16": 2e-2, "bfloat16": 5e-2}
_FLOAT32_TOLERANCE = 1e-4


class ExportError(RuntimeError):
    """A module that, loaded back, does not compute what the model computes."""


def export_module(
    model: ResNetV2,
    directory: str | PathLike[str],
    *,
    kind: Kind = "fine-tunable",
    labels: Sequence[str] | None = None,
    image_size: int = 224,
    multi_label: bool = False,
) -> Path:
    """Writes a model as a SavedModel, reads it back and compares it, then gives it its name.

    "fine-tunable" is a Reusable SavedModel for `hub.KerasLayer(path, trainable=True)`: called with
    float32 [B, H, W, 3] in [0, 1], any height and width, it returns float32 logits, or features for
    a model without a head. All weights are trainable, also those frozen in `model`.

    "serving" has its kernels standardised beforehand and all weights as constants (variables above
    1.5 GB). Its signatures are

        serving_default(images: float32 [B, H, W, 3] in [0, 1])
        serving_bytes(image_bytes: string [B])  # JPEG, PNG, GIF, BMP; see `decode_bytes`

    and both return, in float32, features [B, 2048 × width] and, when the model has a head, logits
    and probabilities [B, num_classes].

    Args:
        model: a `ResNetV2`, under any dtype policy.
        directory: folder to write. An earlier module there is replaced, nothing else is.
        kind: "fine-tunable" or "serving".
        labels: names of the classes in the order of the logits, stored as assets/labels.txt, one a
            line; also the attribute `labels` (an asset) of the loaded module.
        image_size: side of the square in pixels that serving_bytes resizes images to, as in
            evaluation.
        multi_label: probabilities by sigmoid, one class apart from the other, instead of softmax.

    Returns:
        `directory`.

    Raises:
        TypeError: for any other model.
        ValueError: for an unknown kind, labels that do not fit or an image size below 1.
        FileExistsError: when `directory` holds anything but a module.
        ExportError: when the module, loaded back, differs from the model.
        OSError: when it cannot be written. In all cases what was there before is still there.

    Source: https://www.tensorflow.org/hub/reusable_saved_models; tfhub.dev/google/bit.

    Example:
        >>> model = ResNetV2(26, 0.5, num_classes=2)
        >>> export_module(model, "/tmp/pets", labels=["cat", "dog"])
        PosixPath('/tmp/pets')
    """
    _check_arguments(model, kind, image_size)
    labels = None if labels is None else _checked_labels(labels, model.num_classes)
    directory = Path(directory)
    _check_target(directory)
    with (
        replacing(os.path.abspath(directory), folder=True) as partial,
        _label_file(labels) as label_file,
    ):
        if kind == "serving":
            module, signatures = _serving(model, image_size, multi_label)
        else:
            module, signatures = _fine_tunable(model), None
        if label_file is not None:
            module.labels = tf.saved_model.Asset(str(label_file))
        _save(module, partial, signatures)
        metadata = _metadata(model, kind, labels, image_size, multi_label)
        (partial / METADATA).write_text(json.dumps(metadata, indent=2) + "\n")
        with _full_float32():
            _verify(model, partial, kind, image_size, multi_label)
    return directory


def _check_arguments(model: Any, kind: str, image_size: int) -> None:
    if not isinstance(model, ResNetV2):
        raise TypeError(
            f"`model` must be a bit_keras.ResNetV2. Received: a {type(model).__name__}. Make one "
            "with bit_keras.ResNetV2.from_preset and load the weights into it."
        )
    if kind not in get_args(Kind):
        raise ValueError(f"`kind` must be 'fine-tunable' or 'serving'. Received: {kind!r}")
    if image_size < 1:
        raise ValueError(f"`image_size` must be at least 1 pixel. Received: {image_size!r}")


def _checked_labels(labels: Sequence[str], num_classes: int | None) -> list[str]:
    if num_classes is None:
        raise ValueError("`labels` must be None for a model without a head (num_classes=None)")
    if isinstance(labels, str) or len(labels) != num_classes:
        received = repr(labels) if isinstance(labels, str) else f"{len(labels)} names"
        raise ValueError(
            f"`labels` must be a list of {num_classes} names, one for each class. "
            f"Received: {received}"
        )
    for label in labels:
        if not isinstance(label, str) or label.splitlines() != [label]:
            raise ValueError(
                "Each of `labels` must be text without line breaks, for it becomes a line of "
                f"{LABELS}. Received: {label!r}"
            )
    return list(labels)


def _check_target(directory: Path) -> None:
    """Refuses whatever is not a module: replacing a folder deletes all that is in it."""
    if directory.exists() and not directory.is_dir():
        raise FileExistsError(f"{directory} is a file. Export to a folder, for it takes several.")
    found = {entry.name for entry in directory.iterdir()} if directory.exists() else set()
    others = sorted(found - _MODULE_FILES)
    if found and (others or _SAVED_MODEL not in found):
        kept = ", ".join((others or sorted(found))[:5])
        raise FileExistsError(
            f"{directory} holds {kept}, which an export would delete: only an empty folder, or one "
            "with nothing but a SavedModel, is replaced. Export to a new one, such as "
            f"{directory / 'module'}"
        )


@contextlib.contextmanager
def _label_file(labels: list[str] | None) -> Iterator[Path | None]:
    """A file of the labels under the name it has among the assets, which are copied by name."""
    if labels is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / LABELS
        path.write_text("".join(f"{label}\n" for label in labels), encoding="utf-8", newline="\n")
        yield path


def _metadata(
    model: ResNetV2, kind: str, labels: list[str] | None, image_size: int, multi_label: bool
) -> dict[str, Any]:
    """What tools need to describe the module without loading it; the same for the same module."""
    return {
        "kind": kind,
        "architecture": str(model.architecture),
        "num_classes": model.num_classes,
        "features": model.architecture.features,
        "labels": len(labels) if labels is not None else None,
        "multi_label": multi_label,
        "input_range": [0.0, 1.0],
        "image_size": image_size,
        "dtype": model.dtype_policy.name,
        "bit_keras_version": __version__,
    }


def _save(module: Any, folder: Path, signatures: Any) -> None:
    try:
        tf.saved_model.save(module, str(folder), signatures=signatures)
    except tf.errors.ResourceExhaustedError as error:
        # TensorFlow's error for a full disk, but also for memory that ran out.
        if not any(text in str(error) for text in ("No space left", "quota exceeded")):
            raise
        raise OSError(errno.ENOSPC, str(error)) from error


class _Module(tf.Module):
    """A trackable whose variables are the attributes it is given, not found by looking around."""

    variables: Any = ()
    trainable_variables: Any = ()


def _fine_tunable(model: ResNetV2) -> Any:
    """A trackable with the four members that `hub.KerasLayer` looks for."""

    # One graph for both modes: a BiT has no layer that computes anything else in training.
    @tf.function(input_signature=[_IMAGES])
    def outputs(images: tf.Tensor) -> tf.Tensor:
        images = tf.cast(to_model_range(images), model.input.dtype)
        return tf.cast(model(images, training=False), tf.float32)

    @tf.function
    def call(inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        return outputs(inputs)

    module = _Module()
    module.__call__ = call
    for training in (True, False):
        call.get_concrete_function(tf.TensorSpec(_IMAGES.shape, _IMAGES.dtype, "inputs"), training)
    module.variables = [variable.value for variable in model.weights]
    # A BiT has no weights that are not meant to be trained, such as moving averages.
    module.trainable_variables = list(module.variables)
    module.regularization_losses = []
    return module


def _endpoints(model: ResNetV2) -> keras.Model:
    """The model with its outputs by name: features and, with a head, logits."""
    outputs = {"features": model.get_layer("features").output}
    if model.num_classes is not None:
        outputs["logits"] = model.output
    return keras.Model(model.input, outputs)


def _answers(endpoints: keras.Model, images: tf.Tensor, multi_label: bool) -> dict[str, tf.Tensor]:
    """All that a serving module returns for images [B, H, W, 3] in [-1, 1], as float32."""
    found = endpoints(tf.cast(images, endpoints.input.dtype), training=False)
    answers = {name: tf.cast(value, tf.float32) for name, value in found.items()}
    if "logits" in answers:
        probabilities = tf.nn.sigmoid if multi_label else tf.nn.softmax
        answers["probabilities"] = probabilities(answers["logits"])
    return answers


def _holder(model: ResNetV2, variables: list[tf.Variable]) -> Callable[[tf.Tensor], Any]:
    """What keeps a frozen tensor: a constant, or a variable (added to the list) if too much."""
    size = sum(math.prod(weight.shape) for weight in model.weights)
    if size * tf.as_dtype(model.compute_dtype).size <= CONSTANT_BYTES:
        return tf.constant

    def hold(value: tf.Tensor) -> tf.Variable:
        variables.append(tf.Variable(value, trainable=False))
        return variables[-1]

    return hold


def _serving(model: ResNetV2, image_size: int, multi_label: bool) -> tuple[Any, dict[str, Any]]:
    """A trackable and its signatures, traced with frozen weights."""
    module = _Module()
    variables: list[tf.Variable] = []
    hold = _holder(model, variables)
    endpoints = _endpoints(model)
    kernels = {id(x.kernel) for x in model.layers if isinstance(x, StandardizedConv2D)}
    frozen = [(w, hold(tf.identity(w.value))) for w in model.weights if id(w) not in kernels]

    # One function for both signatures, so that the graph holds everything once.
    @tf.function(input_signature=[_IMAGES])
    def answer(images: tf.Tensor) -> dict[str, tf.Tensor]:
        with keras.StatelessScope(state_mapping=frozen):
            return _answers(endpoints, images, multi_label)

    @tf.function(input_signature=[_IMAGES])
    def serving_default(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return answer(to_model_range(images))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def serving_bytes(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        view = tf.TensorSpec([image_size, image_size, 3], tf.float32)
        return answer(
            tf.map_fn(lambda x: eval_view(decode_bytes(x), image_size), image_bytes,
                      fn_output_signature=view)
        )  # fmt: skip

    # The kernels in the dtype they are used in: a half-precision module is half as large.
    with folded_kernels(model, lambda kernel: hold(tf.cast(kernel, model.compute_dtype))):
        signatures = {
            "serving_default": serving_default.get_concrete_function(),
            "serving_bytes": serving_bytes.get_concrete_function(),
        }
    module.frozen = variables
    return module, signatures


@contextlib.contextmanager
def _full_float32() -> Iterator[None]:
    """Without TensorFloat-32, in which a GPU's results depend on the algorithm it picks."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def _verify(model: ResNetV2, folder: Path, kind: str, image_size: int, multi_label: bool) -> None:
    """Raises unless the module in `folder` computes what the model computes."""
    endpoints = _endpoints(model)

    def expect(images: tf.Tensor) -> dict[str, tf.Tensor]:
        if kind == "serving":
            return _answers(endpoints, images, multi_label)
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
            _check_equal(name, case, expected[name], found[name], tolerance, disturbed)


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


def _check_equal(
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
        raise ExportError(f"{what}: the module's shape {found.shape} is not {expected.shape}.")
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
