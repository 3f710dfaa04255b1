"""What an update of a pre-training costs: FLOP, bytes to exchange, memory; no TensorFlow."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bit_keras.memory import BYTES_PER_ACTIVATION, BYTES_PER_PARAMETER
from bit_keras.presets import BLOCK_STRIDES, Architecture

PARAMETER_BYTES = 4  # weights, gradients and momentum are float32 in every precision
ACTIVATION_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Workload:
    """What is trained, and how.

    Attributes:
        architecture: the network.
        num_classes: outputs of its head; None for no head.
        batch_size: examples of one update over all accelerators.
        image_size: side of the training images, pixels.
        precision: "float32", "bfloat16" or "float16", to compute in.
        microbatches: parts of an accelerator's share.
        remat: activations are computed again in the backward pass.
    """

    architecture: Architecture
    num_classes: int | None = None
    batch_size: int = 4096
    image_size: int = 224
    precision: str = "bfloat16"
    microbatches: int = 1
    remat: bool = False

    @property
    def parameters(self) -> int:
        """Number of parameters, with the head."""
        return self.architecture.parameters(self.num_classes)

    @property
    def forward_flops(self) -> float:
        """FLOP of one image's forward pass: two for each multiply-add, convolutions and head."""
        head = self.architecture.features * (self.num_classes or 0)
        return 2 * (self.architecture.gmacs(self.image_size) * 1e9 + head)

    @property
    def gradient_bytes(self) -> int:
        """Bytes that every accelerator contributes to the sum over all."""
        return PARAMETER_BYTES * self.parameters

    def flops(self, images: float = 1) -> float:
        """FLOP of training on `images`: the backward pass costs two forward passes.

        Example:
            >>> round(Workload(Architecture(50, 1)).flops() / 1e9, 1)
            24.5
        """
        return (4 if self.remat else 3) * self.forward_flops * images


def _kept_activations(architecture: Architecture, size: int) -> tuple[int, int]:
    """Elements that rematerialisation keeps of one image: all units' inputs, and one whole unit.

    The unit is the largest: the first of block 1, or the root.
    """
    side = math.ceil(size / 4)
    channels, inputs = architecture.root_filters, 0
    for block, (units, stride) in enumerate(
        zip(architecture.units, BLOCK_STRIDES, strict=True), start=1
    ):
        outputs = 4 * architecture.block_filters(block)
        inputs += channels * side**2
        side = math.ceil(side / stride)
        inputs += (units - 1) * outputs * side**2
        channels = outputs
    filters = architecture.root_filters
    largest = max((4 + 1 + 1 + 4) * filters * math.ceil(size / 4) ** 2,
                  filters * math.ceil(size / 2) ** 2)  # fmt: skip
    return inputs, largest


def memory_bytes(work: Workload, accelerators: int = 1) -> float:
    """Memory of one accelerator during an update, with `memory.update_bytes`'s measured constants.

    Weights, gradients and momentum; what the backward pass needs of the images that are computed at
    once; with micro-batches, the sum of gradients beside those of a part, and the standardised
    kernels, which all parts share.

    Args:
        work: of all accelerators.
        accelerators: how many share the batch.
    """
    at_once = work.batch_size / accelerators / work.microbatches
    scale = ACTIVATION_BYTES[work.precision] / ACTIVATION_BYTES["float32"]
    if work.remat:
        inputs, unit = _kept_activations(work.architecture, work.image_size)
        image = ACTIVATION_BYTES["float32"] * inputs + BYTES_PER_ACTIVATION * unit
    else:
        image = BYTES_PER_ACTIVATION * work.architecture.activations(work.image_size)
    copies = BYTES_PER_PARAMETER + (2 * PARAMETER_BYTES if work.microbatches > 1 else 0)
    return copies * work.parameters + scale * image * at_once
