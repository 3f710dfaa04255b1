"""OpenVINO's intermediate representation."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from bit_keras.runtimes.base import Answer, Conversion, missing


class OpenVino:
    """An .xml with a .bin beside it, for any size and number of images."""

    suffix = ".xml"
    any_size = True

    def write(self, conversion: Conversion, path: Path) -> None:
        """Writes both files, weights in float32."""
        try:
            import openvino
        except ImportError as error:
            raise missing("OpenVINO", error) from error
        module, function = conversion.graph()
        with tempfile.TemporaryDirectory() as folder:
            tf.saved_model.save(module, folder, signatures={"serving_default": function})
            openvino.save_model(openvino.convert_model(folder), path, compress_to_fp16=False)

    def load(self, path: Path, conversion: Conversion) -> Answer:
        """What answers images with the file, on the CPU and in float32.

        Left alone, OpenVINO computes in bfloat16 on processors that can.
        """
        try:
            import openvino
        except ImportError as error:
            raise missing("OpenVINO", error) from error
        exact = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.Core().compile_model(path, "CPU", exact)

        def answer(images: np.ndarray) -> Mapping[str, np.ndarray]:
            found = compiled([images])
            return {key.any_name: np.array(value) for key, value in found.items()}

        return answer
