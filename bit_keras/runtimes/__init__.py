"""Runtimes that a model can be converted for; each writes its file and runs it."""

from __future__ import annotations

from collections.abc import Callable

from bit_keras.runtimes.base import Answer as Answer
from bit_keras.runtimes.base import Conversion as Conversion
from bit_keras.runtimes.base import Runtime as Runtime
from bit_keras.runtimes.npz import Npz
from bit_keras.runtimes.onnx import Onnx
from bit_keras.runtimes.openvino import OpenVino
from bit_keras.runtimes.tflite import TfLite

RUNTIMES: dict[str, Callable[[], Runtime]] = {
    "npz": Npz,
    "onnx": Onnx,
    "openvino": OpenVino,
    "tflite": TfLite,
}
