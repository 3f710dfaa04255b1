"""Options of `bit-keras convert`, the same for Python and for the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bit_keras.options import check_numbers, option, required


@dataclass(frozen=True)
class ConvertOptions:
    """Converts a run or a preset for another runtime, and compares it with the Keras model.

    The result takes float32 images in [0, 1] and gives features, logits and probabilities, as a
    serving module does. It gets its name when its answers on random and real images are the
    model's. Beside it stands NAME.json with what it expects and what was found.
    """

    model: str = required("A run folder of `bit-keras finetune` or `pretrain`, or a preset.")
    to: Literal["onnx", "openvino", "tflite", "npz"] = required("The runtime.")
    output: str = required("The file to write: .onnx, .xml (a .bin comes with it), .tflite, .npz.")
    precision: Literal["float32", "int8", "int8_dynamic"] = option(
        "float32",
        "For tflite. int8: weights and inputs of the convolutions, calibrated on images; "
        "int8_dynamic: the same, with ranges found anew for each image, without calibration.",
    )
    calibration: str = option(
        "", "For int8: a data source; default: the run's training images, else the embedded ones."
    )
    calibration_images: int = option(128, "How many of them.")
    image_size: int | None = option(None, "Side of the images; default: the run's, else 224.")
    weights: str = option("pretrained", "For a preset: 'pretrained', an npz file, or 'none'.")
    num_classes: int | None = option(None, "For a preset: outputs; default: features only.")
    multi_label: bool = option(False, "For a preset: probabilities by sigmoid.")

    def __post_init__(self) -> None:
        check_numbers(self, 1, "calibration_images", "image_size", "num_classes")
        if self.precision != "float32" and self.to != "tflite":
            raise ValueError(f"precision {self.precision} is for tflite; {self.to} has float32")
