"""ONNX, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bit_keras.runtimes.base import Answer, Conversion, frozen, missing

OPSET = 17


class Onnx:
    """ONNX of opset 17, for any size and number of images; through tf2onnx."""

    suffix = ".onnx"
    any_size = True

    def write(self, conversion: Conversion, path: Path) -> None:
        """Writes the file; its outputs have their names."""
        try:
            import onnx
            import tf2onnx
        except ImportError as error:
            raise missing("ONNX", error) from error
        _, function = conversion.graph()
        graph = frozen(function)
        outputs = dict(zip(sorted(function.structured_outputs), graph.outputs, strict=True))
        model, _ = tf2onnx.convert.from_graph_def(
            graph.graph.as_graph_def(),
            input_names=[graph.inputs[0].name],
            output_names=[tensor.name for tensor in outputs.values()],
            opset=OPSET,
        )
        names = {tensor.name: name for name, tensor in outputs.items()}
        names[graph.inputs[0].name] = "images"
        _rename(model.graph, names)
        onnx.checker.check_model(model)
        onnx.save(model, str(path))

    def load(self, path: Path, conversion: Conversion) -> Answer:
        """What answers images with the file, on the CPU."""
        try:
            import onnxruntime
        except ImportError as error:
            raise missing("ONNX", error) from error
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]

        def answer(images: np.ndarray) -> Mapping[str, np.ndarray]:
            return dict(zip(names, session.run(names, {"images": images}), strict=True))

        return answer


def _rename(graph: object, names: Mapping[str, str]) -> None:
    """Gives a graph's inputs and outputs their names, wherever they are used."""
    for node in graph.node:  # type: ignore[attr-defined]
        for ends in (node.input, node.output):
            for i, name in enumerate(ends):
                ends[i] = names.get(name, name)
    for value in (*graph.input, *graph.output):  # type: ignore[attr-defined]
        value.name = names.get(value.name, value.name)
