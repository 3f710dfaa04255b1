"""Options of `bit-keras bench`, the same for Python and for the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bit_keras.accelerators import get_accelerator
from bit_keras.options import check_numbers, option
from bit_keras.presets import get_preset
from bit_keras.scaling import EFFICIENCY

ALL = "all"  # architectures


@dataclass(frozen=True)
class BenchOptions:
    """Says how fast training is: on many accelerators by arithmetic, on this machine measured.

    --scaling prints tables of step time and images/s on 1 to 4096 accelerators, --published what
    the same arithmetic says of trainings whose time is public, --measure what it says of one and
    two replicas on this machine, and how long they really take.
    """

    scaling: bool = option(False, "Step time and images/s on 1 to 4096 accelerators.")
    published: bool = option(False, "Compare with public training times of BiT on TPUv3.")
    measure: bool = option(False, "Compare with one and two replicas on two cores; 2 minutes.")
    model: str = option(ALL, "A preset, or 'all' for every architecture with BiT-L's head.")
    accelerator: str = option("TPUv3", "TPUv3 (a core), TPUv4, V100, A100 or H100.")
    accelerators: tuple[int, ...] = option(
        (1, 8, 64, 128, 256, 512, 1024, 2048, 4096), "How many of them."
    )
    batch_size: int | None = option(None, "Examples of one update; default: the recipe's.")
    images: int | None = option(
        None, "Images of each accelerator, so that the batch grows with their number."
    )
    image_size: int | None = option(None, "Side of the training images; default: the recipe's.")
    precision: Literal["bfloat16", "float32", "float16"] = option("bfloat16", "To compute in.")
    efficiency: float = option(EFFICIENCY, "Share of the peak that matrix products reach.")
    picture: str = option("", "For --scaling: also draw every architecture to this PNG file.")
    rounds: int = option(10, "For --measure: how often one and two replicas take turns.")

    def __post_init__(self) -> None:
        check_numbers(self, 1, "batch_size", "images", "image_size", "rounds")
        if not self.accelerators or min(self.accelerators) < 1:
            raise ValueError(f"accelerators must be from 1 on, received {self.accelerators}")
        if not 0 < self.efficiency <= 1:
            raise ValueError(f"efficiency must be above 0, at most 1, received {self.efficiency}")
        if self.batch_size and self.images:
            raise ValueError("batch_size and images exclude each other")
        if self.model != ALL:
            get_preset(self.model)
        get_accelerator(self.accelerator).peak_for(self.precision)
