"""Publishing a model as a SavedModel: a fine-tunable TF-Hub module, or one that serves.

Published modules take images in [0, 1], as the TF-Hub BiT modules do, and rescale inside. Every
module is loaded back and compared with the model before its folder gets its name.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

import tensorflow as tf

from bit_keras.files import replacing, tensorflow_disk_errors
from bit_keras.modules import fine_tunable, serving
from bit_keras.resnet import ResNetV2
from bit_keras.serving.configs import default_name, write_configs
from bit_keras.serving.warmup import write_warmup
from bit_keras.verify import ExportError as ExportError
from bit_keras.verify import full_float32, verify
from bit_keras.version import __version__

Kind = Literal["fine-tunable", "serving"]
METADATA = "bit_keras.json"
LABELS = "labels.txt"

_SAVED_MODEL = "saved_model.pb"
_MODULE_FILES = {_SAVED_MODEL, "variables", "assets", "assets.extra", "fingerprint.pb", METADATA}


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
    and probabilities [B, num_classes]. It carries TensorFlow Serving's warm-up requests where
    tensorflow-serving-api is installed; in a folder that is named by a version number, as
    TensorFlow Serving wants it, models.config and batching.config are written beside it, unless
    they are there.

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
        >>> export_module(model, "/tmp/pets", labels=["cat", "dog"])  # doctest: +SKIP
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
            module, signatures = serving(model, image_size, multi_label)
        else:
            module, signatures = fine_tunable(model), None
        if label_file is not None:
            module.labels = tf.saved_model.Asset(str(label_file))
        with tensorflow_disk_errors(directory):
            tf.saved_model.save(module, str(partial), signatures=signatures)
        metadata = _metadata(model, kind, labels, image_size, multi_label)
        if kind == "serving":
            name = default_name(_base_path(directory))
            metadata["warmup_requests"] = write_warmup(partial, name, image_size)
        (partial / METADATA).write_text(json.dumps(metadata, indent=2) + "\n")
        with full_float32():
            verify(model, partial, kind, image_size, multi_label)
    if kind == "serving" and directory.name.isdecimal():
        write_configs(_base_path(directory))
    return directory


def _base_path(directory: Path) -> Path:
    """The folder of versions, for a module in one; else the module's own."""
    return directory.parent if directory.name.isdecimal() else directory


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
