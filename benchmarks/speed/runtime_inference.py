"""A contestant, in the environment "runtimes": answers of OpenVINO, onnxruntime or LiteRT.

python -m benchmarks.speed.runtime_inference '{"runtime": "openvino", "file": "m.xml", …}'
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np

from benchmarks.speed.answering import serve_answers

Answer = Callable[[np.ndarray], np.ndarray]


def openvino(file: str, precision: str = "") -> Answer:
    """OpenVINO on an .xml or .onnx file, compiled for each size of batch, which is faster.

    Args:
        file: of either kind.
        precision: such as "f32"; when left out what OpenVINO thinks best, bfloat16 where the
            processor has it.
    """
    from openvino import Core

    core = Core()
    hints = {"INFERENCE_PRECISION_HINT": precision} if precision else {}

    @cache
    def compiled(shape: tuple[int, ...]) -> Any:
        model = core.read_model(file)
        model.reshape(list(shape))
        return core.compile_model(model, "CPU", hints)

    return lambda images: np.array(compiled(images.shape)([images])["logits"])


def onnxruntime(file: str) -> Answer:
    """Onnxruntime on an .onnx file."""
    from onnxruntime import InferenceSession

    session = InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["logits"], {"images": images})[0]


def litert(file: str) -> Answer:
    """LiteRT on a .tflite file for one image: one after the other."""
    from ai_edge_litert.interpreter import Interpreter

    # The interpreter must be kept alive by something: its runner does not.
    interpreter = Interpreter(model_path=file, num_threads=os.cpu_count())
    runner = interpreter.get_signature_runner()

    def answer(images: np.ndarray, _interpreter: Any = interpreter) -> np.ndarray:
        return np.concatenate([runner(images=image[None])["logits"] for image in images])

    return answer


RUNTIMES: dict[str, tuple[str, Callable[..., Answer]]] = {
    "openvino": ("openvino", openvino),
    "onnxruntime": ("onnxruntime", onnxruntime),
    "litert": ("ai-edge-litert", litert),
}


def main() -> None:
    """Serves."""
    settings = json.loads(sys.argv[1])
    images, (package, load) = settings.pop("images"), RUNTIMES[settings.pop("runtime")]
    answer = load(**settings)
    serve_answers(images, answer, lambda batch: batch, versions={package: version(package)})


if __name__ == "__main__":
    main()
