"""The released BiT layout, which the reference code, timm and Hugging Face read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from bit_keras.modules import answers, endpoints_of
from bit_keras.preprocess import to_model_range
from bit_keras.resnet import ResNetV2
from bit_keras.runtimes.base import Answer, Conversion
from bit_keras.weights import load_npz, save_npz


class Npz:
    """The weights alone; here they are run in a new model of the same architecture."""

    suffix = ".npz"
    any_size = True

    def write(self, conversion: Conversion, path: Path) -> None:
        """Writes the file."""
        save_npz(conversion.model, path)

    def load(self, path: Path, conversion: Conversion) -> Answer:
        """What answers images with the file, which does not say its architecture."""
        model = conversion.model
        loaded = ResNetV2(model.architecture.depth, model.architecture.width, model.num_classes)
        load_npz(loaded, path)
        endpoints = endpoints_of(loaded)

        def answer(images: np.ndarray) -> Mapping[str, np.ndarray]:
            found = answers(endpoints, to_model_range(tf.constant(images)), conversion.multi_label)
            return {name: value.numpy() for name, value in found.items()}

        return answer
