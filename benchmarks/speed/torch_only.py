"""timm's network, in the environment "torch" only; importing this makes timm importable."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

# timm imports torchvision, uses nothing of it here, and PyPI's, built for CUDA, cannot be imported
# beside a PyTorch for the CPU unless these operators are known.
_OPERATORS = torch.library.Library("torchvision", "DEF")
if torch.version.cuda is None:
    for _name in ("nms", "qnms"):
        _OPERATORS.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import timm  # noqa: E402
from timm.layers import StdConv2d  # noqa: E402
from timm.models.resnetv2 import ResNetV2  # noqa: E402

UNITS = {26: [2, 2, 2, 2], 50: [3, 4, 6, 3]}


def resnet(depth: int, width: float, classes: int, weights: str) -> Any:
    """timm's BiT network with the weights of an npz file.

    Args:
        depth: 26 or 50.
        width: factor on the filters.
        classes: outputs of the head.
        weights: a file that `bit_keras.save_npz` wrote.
    """
    if (depth, width) == (50, 1):
        model = timm.create_model("resnetv2_50x1_bit", num_classes=classes)
    else:  # as timm makes its own, in a size that it has no name for
        model = ResNetV2(
            UNITS[depth],
            num_classes=classes,
            width_factor=width,
            stem_type="fixed",
            conv_layer=partial(StdConv2d, eps=1e-8),
        )
    model.load_pretrained(weights)
    return model
