"""LiteRT, once TensorFlow Lite."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from bit_keras.runtimes.base import Answer, Conversion, fixed, missing

# What stays in float32 when the convolutions compute in int8: all that group normalisation is made
# of. With its means and variances in eight bits a fine-tuned BiT-XS lost six points of accuracy.
FLOAT_OPERATIONS = (
    "ADD", "FULLY_CONNECTED", "LOGISTIC", "MEAN", "MUL", "RESHAPE", "RSQRT", "SOFTMAX", "SQUARE",
    "SQUARED_DIFFERENCE", "SUB", "SUM",
)  # fmt: skip


class TfLite:
    """A flatbuffer for one image of one size; callers may resize the input's first axis."""

    suffix = ".tflite"
    any_size = False

    def write(self, conversion: Conversion, path: Path) -> None:
        """Writes the file, in float32 or with the convolutions in int8."""
        module, function = conversion.graph()
        converter = tf.lite.TFLiteConverter.from_concrete_functions(
            [fixed(function, conversion.image_size)], module
        )
        if conversion.precision == "float32":
            path.write_bytes(converter.convert())
            return
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if conversion.precision == "int8":
            path.write_bytes(_calibrated(converter, conversion.calibration))
        else:
            path.write_bytes(converter.convert())

    def load(self, path: Path, conversion: Conversion) -> Answer:
        """What answers images with the file, one after the other."""
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise missing("LiteRT", error) from error
        interpreter = Interpreter(model_path=str(path), num_threads=os.cpu_count())
        runner = interpreter.get_signature_runner()

        def answer(images: np.ndarray) -> Mapping[str, np.ndarray]:
            rows = [runner(images=image[None]) for image in images]
            return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}

        return answer


def _calibrated(converter: Any, images: np.ndarray | None) -> bytes:
    """Quantises the convolutions to the ranges that images give them."""
    if images is None or not len(images):
        raise ValueError("int8 needs images to calibrate with; int8_dynamic does without.")

    def examples() -> Iterator[list[np.ndarray]]:
        for image in images:
            yield [image[None]]

    converter.representative_dataset = examples
    options = tf.lite.experimental.QuantizationDebugOptions(denylisted_ops=list(FLOAT_OPERATIONS))
    debugger = tf.lite.experimental.QuantizationDebugger(
        converter=converter, debug_dataset=examples, debug_options=options
    )
    return debugger.get_nondebug_quantized_model()
