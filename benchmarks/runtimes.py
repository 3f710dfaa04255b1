"""One model in every runtime it can be converted for: largest difference and images/s, in one run.

    python -m benchmarks.runtimes

All take the same images and turns on the same processors, so that what counts are the ratios.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from bit_keras import ResNetV2
from bit_keras.convert import REAL_DATA, convert, real_images
from bit_keras.convert_options import ConvertOptions
from bit_keras.presets import get_preset
from bit_keras.runtimes import RUNTIMES, Conversion
from bit_keras.sources import load_source
from bit_keras.text import table

BATCH, ROUNDS, SECONDS = 8, 5, 2.0
FILES: tuple[tuple[str, Any, str, Any], ...] = (
    ("ONNX, onnxruntime", "onnx", "m.onnx", "float32"),
    ("OpenVINO, f32", "openvino", "m.xml", "float32"),
    ("LiteRT", "tflite", "m.tflite", "float32"),
    ("LiteRT, int8", "tflite", "int8.tflite", "int8"),
    ("LiteRT, int8_dynamic", "tflite", "dynamic.tflite", "int8_dynamic"),
)


def rate(answer: Callable[[np.ndarray], object], images: np.ndarray) -> float:
    """Images/s over some seconds."""
    count, started = 0, time.perf_counter()
    while (spent := time.perf_counter() - started) < SECONDS:
        answer(images)
        count += len(images)
    return count / spent


def main() -> None:
    """Converts, compares, measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runtimes", description=__doc__)
    parser.add_argument("--model", default="BiT-XS-R26x0.5")
    parser.add_argument("--image_size", type=int, default=224)
    options = parser.parse_args()
    size, classes = options.image_size, get_preset(options.model).num_classes
    model = ResNetV2.from_preset(options.model, classes)
    conversion = Conversion(model, size, multi_label=True)
    images = real_images(load_source(REAL_DATA), "test", size, BATCH)
    keras_step = tf.function(lambda x: model(2 * x - 1, training=False))
    module, function = conversion.graph()
    ways: dict[str, tuple[str, Callable[[np.ndarray], object]]] = {}
    ways["Keras model in a tf.function"] = ("–", lambda x: keras_step(x).numpy())
    ways["serving module, TensorFlow"] = (
        "–",
        lambda x: function(tf.constant(x))["logits"].numpy(),
    )
    with tempfile.TemporaryDirectory() as folder:
        for title, to, name, precision in FILES:
            asked = ConvertOptions(
                options.model, to, str(Path(folder) / name), precision, image_size=size,
                num_classes=classes, multi_label=True,
            )  # fmt: skip
            found = convert(asked)
            ways[title] = (
                f"{found.differences['logits']:.1e}",
                RUNTIMES[to]().load(found.path, conversion),
            )
        for _, run in ways.values():
            run(images)
        rates: dict[str, list[float]] = {title: [] for title in ways}
        for _ in range(ROUNDS):
            for title, (_, run) in ways.items():
                rates[title].append(rate(run, images))
    base = rates["Keras model in a tf.function"]
    rows = [
        (
            title,
            difference,
            f"{statistics.median(rates[title]):,.1f}",
            f"{statistics.median(a / b for a, b in zip(rates[title], base, strict=True)):.2f}",
        )
        for title, (difference, _) in ways.items()
    ]
    print(f"{options.model}, {size}², batches of {BATCH}, median of {ROUNDS} rounds by turns")
    print(table(("", "difference of logits", "images/s", "ratio"), rows, "lrrr"))
    del module  # holds the constants of `function` until here


if __name__ == "__main__":
    main()
