"""A contestant, in the environment "torch": answers of timm's network or of Hugging Face's.

python -m benchmarks.speed.torch_inference '{"kind": "folded", "depth": 50, …}'
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import numpy as np
import torch

from benchmarks.speed import torch_only  # first: timm cannot be imported without it
from benchmarks.speed.answering import serve_answers


def fold(model: Any) -> Any:
    """Puts plain convolutions, their kernels standardised once, in place of timm's `StdConv2d`."""
    for name, child in model.named_children():
        if not isinstance(child, torch_only.StdConv2d):
            fold(child)
            continue
        plain = torch.nn.Conv2d(
            child.in_channels,
            child.out_channels,
            child.kernel_size,
            child.stride,
            child.padding,
            child.dilation,
            child.groups,
            bias=child.bias is not None,
        )
        plain.load_state_dict(child.state_dict())
        kernel = child.weight.detach().flatten(1)
        variance, mean = torch.var_mean(kernel, 1, correction=0, keepdim=True)
        kernel = (kernel - mean) / torch.sqrt(variance + child.eps)
        plain.weight.data = kernel.view_as(child.weight)
        setattr(model, name, plain)
    return model


def hugging_face_name(name: str) -> str:
    """The name in transformers of a weight of timm's, as transformers' own conversion has it."""
    name = name.replace("stem.conv", "bit.embedder.convolution")
    name = name.replace("blocks", "layers").replace("head.fc", "classifier.1")
    if name.startswith("norm"):
        name = f"bit.{name}"
    return name if "bit" in name or "classifier" in name else f"bit.encoder.{name}"


def hugging_face(timm_model: Any, depth: int, width: float, classes: int) -> Any:
    """`BitForImageClassification` with the weights of timm's network."""
    from transformers import BitConfig, BitForImageClassification

    filters = round(64 * width)
    config = BitConfig(
        conv_layer="std_conv",
        num_labels=classes,
        depths=torch_only.UNITS[depth],
        embedding_size=filters,
        hidden_sizes=[4 * filters * 2**block for block in range(4)],
    )
    model = BitForImageClassification(config)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    renamed = {hugging_face_name(k): v for k, v in timm_model.state_dict().items()}
    model.load_state_dict({name: value.reshape(shapes[name]) for name, value in renamed.items()})
    return model


class Answers:
    """A network's answers.

    Args:
        kind: "eager", "folded" (kernels standardised beforehand), "compiled" (the folded one by
            `torch.compile`), "bfloat16" (the folded one under autocast) or "hugging_face".
        depth, width, classes: of the network.
        weights: of the npz file.
    """

    def __init__(self, kind: str, depth: int, width: float, classes: int, weights: str) -> None:
        model = torch_only.resnet(depth, width, classes, weights)
        if kind == "hugging_face":
            model = hugging_face(model, depth, width, classes)
        elif kind != "eager":
            fold(model)
        self.model = model.eval().to(memory_format=torch.channels_last)
        self.bfloat16, self.hugging_face = kind == "bfloat16", kind == "hugging_face"
        if kind == "compiled":
            self.model = torch.compile(self.model, dynamic=False)

    def prepared(self, images: np.ndarray) -> torch.Tensor:
        """[B, 3, H, W] in [-1, 1], channels last in memory."""
        return torch.from_numpy(2 * images - 1).permute(0, 3, 1, 2)

    def __call__(self, images: torch.Tensor) -> np.ndarray:
        """Logits [B, K]."""
        with (
            torch.inference_mode(),
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bfloat16),
        ):
            found = self.model(images)
            return (found.logits if self.hugging_face else found).float().numpy()


def main() -> None:
    """Serves."""
    settings = json.loads(sys.argv[1])
    images = settings.pop("images")
    torch.set_num_threads(os.cpu_count() or 1)
    answers = Answers(**settings)
    versions = {"timm": torch_only.timm.__version__, "torch": torch.__version__}
    if answers.hugging_face:
        import transformers

        versions["transformers"] = transformers.__version__
    serve_answers(images, answers, answers.prepared, versions=versions)


if __name__ == "__main__":
    main()
