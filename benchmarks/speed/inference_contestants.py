"""Who takes part in the inference part: ours and the peers, in three precisions."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib.metadata import version

from benchmarks.environments import TORCH, environment
from benchmarks.speed.contest import Contestant
from benchmarks.speed.inference_files import Files

RUNTIMES = ("openvino", "onnxruntime", "ai-edge-litert", "numpy")
OURS, OURS_BF16 = "bit_keras", "bit_keras, bf16"
# What `bit-keras convert` writes for phones is ours as well, run by a library that none of the
# peers offers: it stands in the tables, and is not counted among the peers.
OURS_LITERT, OURS_INT8 = "bit_keras for LiteRT", "bit_keras for LiteRT, int8"
TIMM, OPENVINO_BF16 = "timm", "OpenVINO, default precision"
ONNX_INT8 = "onnxruntime's int8, in OpenVINO"
# Largest difference of logits, of the largest logit. In bfloat16 and int8 one that is smaller than
# this can still be another answer; how often that happens is what `accuracy` measures.
TOLERANCES = {"float32": 1e-3, "bfloat16": 0.2, "int8": 0.4}


@dataclass(frozen=True)
class Group:
    """Contestants that are compared with each other.

    Attributes:
        precision: of all but those that are there for comparison; one of `TOLERANCES`.
        base: name of the one that the others are compared with in the table.
        contestants: all of them; float32 ones are held to the tolerance of float32.
        in_float32: names of those that are, in another group, there for comparison.
    """

    precision: str
    base: str
    contestants: list[Contestant]
    in_float32: tuple[str, ...] = ()

    def tolerance(self, name: str) -> float:
        """What the contestant is held to."""
        return TOLERANCES["float32" if name in self.in_float32 else self.precision]


def keras(name: str, files: Files, kind: str, **settings: object) -> Contestant:
    """A contestant of `keras_inference`; kind and settings as there."""
    module = "benchmarks.speed.keras_inference"
    return Contestant(name, module, {"images": files.images, "kind": kind, **settings})


def _torch(name: str, files: Files, kind: str) -> Contestant:
    module = "benchmarks.speed.torch_inference"
    settings = {"images": files.images, "kind": kind, **files.network}
    # PyTorch's own advice for inference on CPUs; the variable counts for `torch.compile` only.
    freezing = {"TORCHINDUCTOR_FREEZING": "1"}
    return Contestant(name, module, settings, environment("torch", *TORCH), freezing)


def _runtime(name: str, files: Files, runtime: str, file: str, **settings: str) -> Contestant:
    # The versions that wrote the files.
    python = environment("runtimes", *(f"{package}=={version(package)}" for package in RUNTIMES))
    settings = {"images": files.images, "runtime": runtime, "file": file, **settings}
    return Contestant(name, "benchmarks.speed.runtime_inference", settings, python)


def groups(files: Files, quick: bool) -> list[Group]:
    """The contestants of float32, of bfloat16 and of int8; ours in float32 is in each."""
    ours = keras(OURS, files, "serving", module=files.module)
    compiled = [_torch("timm, folded, compiled", files, "compiled")] if shutil.which("g++") else []
    float32 = [
        ours,
        _torch(TIMM, files, "eager"),
        _torch("timm, kernels folded", files, "folded"),
        *([] if quick else [*compiled, _torch("Hugging Face", files, "hugging_face")]),
        keras("stock Keras layers", files, "stock", **files.network),
        _runtime("OpenVINO, f32", files, "openvino", files.openvino, precision="f32"),
        _runtime("onnxruntime", files, "onnxruntime", files.onnx),
        _runtime(OURS_LITERT, files, "litert", files.litert),
    ]
    bfloat16 = [
        keras(OURS_BF16, files, "serving", module=files.bfloat16),
        _runtime(OPENVINO_BF16, files, "openvino", files.openvino),
        _torch("timm, folded, bf16 autocast", files, "bfloat16"),
        ours,
    ]
    int8 = [
        _runtime(OURS_INT8, files, "litert", files.litert_int8),
        ours,
    ]
    if not quick:
        int8.append(_runtime(ONNX_INT8, files, "openvino", files.onnx_int8, precision="f32"))
    return [
        Group("float32", TIMM, float32),
        Group("bfloat16", OPENVINO_BF16, bfloat16, (OURS,)),
        Group("int8", OURS, int8, (OURS,)),
    ]
