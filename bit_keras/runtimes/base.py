"""What a conversion starts from, and what every runtime offers for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from bit_keras.modules import serving
from bit_keras.resnet import ResNetV2

Answer = Callable[[np.ndarray], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Conversion:
    """A model that is to be converted.

    Attributes:
        model: under the float32 policy.
        image_size: side of the images that it will see.
        multi_label: probabilities by sigmoid instead of softmax.
        precision: "float32", "int8" or "int8_dynamic".
        calibration: float32 [N, image_size, image_size, 3] in [0, 1]; for int8.
    """

    model: ResNetV2
    image_size: int
    multi_label: bool
    precision: str = "float32"
    calibration: np.ndarray | None = None

    def graph(self) -> tuple[Any, Any]:
        """The serving module and its function: images [B, H, W, 3] in [0, 1] → dict.

        Kernels are standardised, all weights are constants.
        """
        module, signatures = serving(self.model, self.image_size, self.multi_label)
        return module, signatures["serving_default"]


class Runtime(Protocol):
    """One runtime: how its file is written, and how it is run."""

    suffix: str
    any_size: bool  # images of any height and width, and any number of them

    def write(self, conversion: Conversion, path: Path) -> None:
        """Writes the file."""

    def load(self, path: Path, conversion: Conversion) -> Answer:
        """What answers images, float32 [B, H, W, 3] in [0, 1], with the file that was written."""


def missing(name: str, error: ImportError) -> ImportError:
    """The error for a package that is not there."""
    return ImportError(
        f"Converting for {name} needs {error.name}: pip install 'bit-keras[convert]'."
    )


def frozen(function: Any) -> Any:
    """A function of the same graph without nested functions, for converters that want none."""
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    return convert_variables_to_constants_v2(function, lower_control_flow=False)


def fixed(function: Any, size: int) -> Any:
    """The function for one image of one size, as runtimes for phones want it."""

    @tf.function(input_signature=[tf.TensorSpec([1, size, size, 3], tf.float32, name="images")])
    def answer(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return function(images=images)

    return answer.get_concrete_function()
