"""Conversion for another runtime: written, run there, compared with the Keras model, then named."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from bit_keras.convert_options import ConvertOptions
from bit_keras.data import eval_batches
from bit_keras.finished import Trained, open_trained
from bit_keras.modules import answers, endpoints_of
from bit_keras.preprocess import to_model_range
from bit_keras.resnet import ResNetV2
from bit_keras.runs import RunFolder
from bit_keras.runtimes import RUNTIMES, Answer, Conversion, Runtime
from bit_keras.sources import Source, load_source
from bit_keras.verify import ExportError, check_equal, full_float32
from bit_keras.version import __version__

REAL_DATA = "embedded:openclipart-mini"
REAL_IMAGES = 32  # to compare on
DEFAULT_SIZE = 224
TOLERANCE = 1e-4  # in float32, of the largest output; see `verify.check_equal`
# In int8, of the largest output: a fault shifts the answers by as much as they are large.
INT8_TOLERANCE = 0.25


@dataclass(frozen=True)
class Converted:
    """A file for another runtime.

    Attributes:
        path: the file.
        differences: the largest difference to the Keras model of each output, over all images.
        agreement: share of the real images with the same best class; None without classes.
        images: how many images were compared.
    """

    path: Path
    differences: dict[str, float]
    agreement: float | None
    images: int

    def text(self) -> str:
        """For a terminal."""
        told = ", ".join(f"{name} {value:.1e}" for name, value in self.differences.items())
        lines = [f"Largest difference on {self.images} images: {told}"]
        if self.agreement is not None:
            lines.append(f"Same best class: {self.agreement:.1%} of the real ones")
        return "\n".join([*lines, f"File: {self.path}"])


def real_images(source: Source, split: str, size: int, count: int) -> np.ndarray:
    """Images of a source as a module takes them, evenly over the split.

    Returns:
        float32 [N, size, size, 3] in [0, 1], N ≤ count.
    """
    total = source.splits[split]
    indices = np.unique(np.linspace(0, total - 1, min(count, total)).astype(np.int64))
    batches = eval_batches(source, split, batch_size=min(32, len(indices)), size=size,
                           indices=indices)  # fmt: skip
    found = [batch["image"].numpy()[batch["weight"].numpy() > 0] for batch in batches]
    return (np.concatenate(found) + 1) / 2


def convert(options: ConvertOptions) -> Converted:
    """Converts a run or a preset.

    Raises:
        ValueError: for a model, a file name or data that do not fit.
        ImportError: without the runtime's packages.
        ExportError: when the runtime's answers are not the model's; no file is left.
        OSError: for a missing file, or a full disk.

    Example:
        >>> convert(ConvertOptions("runs/photos", "onnx", "photos.onnx")).path  # doctest: +SKIP
        PosixPath('photos.onnx')
    """
    runtime = RUNTIMES[options.to]()
    output = Path(options.output)
    if output.suffix != runtime.suffix:
        raise ValueError(f"The output for {options.to} must end in {runtime.suffix}: {output}")
    trained = open_trained(
        options.model,
        weights=options.weights,
        num_classes=options.num_classes,
        image_size=options.image_size or DEFAULT_SIZE,
        multi_label=options.multi_label,
    )
    size = options.image_size or trained.image_size
    calibration = _calibration(options, trained, size) if options.precision == "int8" else None
    conversion = Conversion(
        _in_float32(trained.model), size, trained.multi_label, options.precision, calibration
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
        partial = Path(folder) / output.name
        with full_float32():
            runtime.write(conversion, partial)
            found = _compare(runtime, conversion, partial, output)
        card = partial.with_name(partial.name + ".json")
        RunFolder.write_json(card, _card(options, conversion, trained, found))
        # The named file last: what stands beside it is then there.
        for path in sorted(Path(folder).iterdir(), key=lambda path: path == partial):
            path.replace(output.parent / path.name)
    return found


def _in_float32(model: ResNetV2) -> ResNetV2:
    """A copy that computes in float32, whatever the model was trained in."""
    architecture = model.architecture
    copy = ResNetV2(
        architecture.depth,
        architecture.width,
        model.num_classes,
        dtype="float32",
        norm=model.norm,
        weight_standardization=model.weight_standardization,
    )
    copy.set_weights(model.get_weights())
    return copy


def _calibration(options: ConvertOptions, trained: Trained, size: int) -> np.ndarray:
    """Images that look like those the model will see."""
    if options.calibration:
        source = load_source(options.calibration, seed=0, strict=False)
        split = "train" if "train" in source.splits else next(iter(source.splits))
    elif trained.run:
        config = trained.run.folder.read_config()
        source = load_source(config["options"]["data"], seed=config["options"]["seed"])
        split = config["train_split"]
    else:
        source, split = load_source(REAL_DATA), "train"
    return real_images(source, split, size, options.calibration_images)


def _cases(runtime: Runtime, size: int) -> Iterator[tuple[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    yield "random images", rng.random((2, size, size, 3), np.float32)
    if runtime.any_size:
        yield "a wider image", rng.random((1, size, size + 33, 3), np.float32)
    yield "real images", real_images(load_source(REAL_DATA), "test", size, REAL_IMAGES)


def _compare(runtime: Runtime, conversion: Conversion, path: Path, output: Path) -> Converted:
    """Runs the file in its runtime and raises unless it answers as the model."""
    endpoints = endpoints_of(conversion.model)

    def expect(images: np.ndarray) -> dict[str, np.ndarray]:
        found = answers(endpoints, to_model_range(tf.constant(images)), conversion.multi_label)
        return {name: value.numpy() for name, value in found.items()}

    answer = runtime.load(path, conversion)
    differences: dict[str, float] = {}
    agreement, count = None, 0
    for case, images in _cases(runtime, conversion.image_size):
        expected, found = expect(images), dict(answer(images))
        if set(expected) != set(found):
            raise ExportError(f"Outputs for {case} are {sorted(found)}, not {sorted(expected)}.")
        _check(case, images, expected, found, expect, conversion.precision)
        for name, value in expected.items():
            most = float(np.abs(found[name] - value).max())
            differences[name] = max(differences.get(name, 0.0), most)
        if case == "real images" and "logits" in expected:
            same = found["logits"].argmax(1) == expected["logits"].argmax(1)
            agreement = float(same.mean())
        count += len(images)
    return Converted(output, differences, agreement, count)


def _check(
    case: str,
    images: np.ndarray,
    expected: dict[str, np.ndarray],
    found: dict[str, np.ndarray],
    expect: Answer,
    precision: str,
) -> None:
    exact = precision == "float32"
    if not exact and case == "random images":
        return  # noise is far from what was calibrated on
    noise = np.random.default_rng(1).normal(0, 5e-7, images.shape).astype(np.float32)
    disturbed = functools.cache(lambda: dict(expect(images + noise)))
    tolerance = TOLERANCE if exact else INT8_TOLERANCE
    for name, value in expected.items():
        check_equal(name, case, value, found[name], tolerance, disturbed)


def _card(
    options: ConvertOptions, conversion: Conversion, trained: Trained, found: Converted
) -> dict[str, Any]:
    """What a user of the file needs to know, JSON-ready."""
    size: Any = conversion.image_size
    return {
        "runtime": options.to,
        "precision": options.precision,
        "architecture": str(conversion.model.architecture),
        "num_classes": conversion.model.num_classes,
        "multi_label": conversion.multi_label,
        "input": {"images": "float32 [B, H, W, 3], RGB", "range": [0.0, 1.0], "image_size": size},
        "outputs": sorted(found.differences),
        "compared": {
            "images": found.images,
            "largest_difference": found.differences,
            "same_best_class": found.agreement,
        },
        "class_names": trained.class_names,
        "bit_keras": __version__,
    }
