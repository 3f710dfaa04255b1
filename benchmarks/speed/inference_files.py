"""One network in every form that the inference part's contestants read."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.training import Size, write_inputs

CALIBRATION = 32  # real images that show which ranges int8 has to hold


@dataclass(frozen=True)
class Files:
    """Where everything is.

    Attributes:
        network: depth, width, classes and weights (an npz file), for who builds it himself.
        images: npy, float32 [N, side, side, 3] in [0, 1], real ones.
        module: the serving module.
        bfloat16: the serving module of a model under mixed precision.
        openvino: .xml.
        onnx: .onnx.
        onnx_int8: .onnx, its convolutions quantised by onnxruntime.
        litert: .tflite.
        litert_int8: .tflite, its convolutions in int8.
    """

    network: dict[str, Any]
    images: str
    module: str
    bfloat16: str
    openvino: str
    onnx: str
    onnx_int8: str
    litert: str
    litert_int8: str


def quantise_onnx(source: Path, target: Path, images: np.ndarray) -> None:
    """Convolutions in int8, ranges from images [N, H, W, 3] in [0, 1], everything else as it is."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        """One image after the other."""

        def __init__(self) -> None:
            self._images = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self._images, None)
            return None if image is None else {"images": image[None]}

    quantize_static(
        source,
        target,
        Reader(),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv"],
    )


def write_files(size: Size, folder: Path) -> Files:
    """Writes all of them into a folder.

    Args:
        size: of the network with random weights, and the images.
        folder: which must exist.

    Raises:
        ExportError: when a module does not answer as the model does.
        ImportError: without the packages of `bit-keras[convert]`.
    """
    from bit_keras import ResNetV2, export_module, load_npz
    from bit_keras.convert import REAL_DATA, real_images
    from bit_keras.pretrain import POLICIES
    from bit_keras.runtimes import RUNTIMES, Conversion
    from bit_keras.sources import load_source

    inputs = write_inputs(size, folder)
    network = {name: inputs[name] for name in ("depth", "width", "classes", "weights")}
    source = load_source(REAL_DATA)
    np.save(folder / "real.npy", real_images(source, "test", size.side, max(size.batches)))

    def model(precision: str) -> Any:
        made = ResNetV2(size.depth, size.width, size.classes, dtype=POLICIES[precision])
        load_npz(made, network["weights"])
        return made

    modules = {}
    for precision in ("float32", "bfloat16"):
        print(f"inference: exporting in {precision}", file=sys.stderr)
        modules[precision] = str(
            export_module(
                model(precision), folder / precision, kind="serving", image_size=size.side
            )
        )
    calibration = real_images(source, "train", size.side, CALIBRATION)
    written = {}
    for to, precision in (
        ("openvino", "float32"),
        ("onnx", "float32"),
        ("tflite", "float32"),
        ("tflite", "int8"),
    ):
        print(f"inference: converting for {to}, {precision}", file=sys.stderr)
        runtime = RUNTIMES[to]()
        path = folder / f"{precision}{runtime.suffix}"
        conversion = Conversion(model("float32"), size.side, False, precision, calibration)
        runtime.write(conversion, path)
        written[to, precision] = str(path)
    quantise_onnx(Path(written["onnx", "float32"]), folder / "int8.onnx", calibration)
    return Files(
        network,
        str(folder / "real.npy"),
        modules["float32"],
        modules["bfloat16"],
        written["openvino", "float32"],
        written["onnx", "float32"],
        str(folder / "int8.onnx"),
        written["tflite", "float32"],
        written["tflite", "int8"],
    )
