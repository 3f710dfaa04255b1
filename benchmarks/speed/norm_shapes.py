"""The shapes of the inputs of a network's norms, and how many norms have each."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from bit_keras.presets import BLOCK_STRIDES, Architecture

SIDE = 224  # of the images, pixels
Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class Network:
    """A network whose norms are measured, and the images in a batch."""

    architecture: Architecture
    batch: int

    def __str__(self) -> str:
        images = "1 image" if self.batch == 1 else f"{self.batch} images"
        return f"{self.architecture}, {images} of {SIDE}²"

    def shapes(self) -> Counter[Shape]:
        """How many norms have inputs of each shape [B, H, W, C]."""
        inputs = norm_inputs(self.architecture, SIDE)
        return Counter({(self.batch, *shape): count for shape, count in inputs.items()})


def norm_inputs(architecture: Architecture, size: int) -> Counter[tuple[int, int, int]]:
    """How many of a network's norms have inputs of each shape [H, W, C], for images of size².

    Example:
        >>> norm_inputs(Architecture(50, 1), 224)[56, 56, 256]
        3
    """
    found: Counter[tuple[int, int, int]] = Counter()
    side, channels = math.ceil(size / 4), architecture.root_filters  # after the root
    for block, (units, stride) in enumerate(zip(architecture.units, BLOCK_STRIDES, strict=True), 1):
        filters = architecture.block_filters(block)
        for unit in range(units):
            after = math.ceil(side / stride) if unit == 0 else side
            found[side, side, channels] += 1
            found[side, side, filters] += 1
            found[after, after, filters] += 1  # the 3×3 convolution before it has the stride
            side, channels = after, 4 * filters
    found[side, side, channels] += 1
    return found
