"""The paper's object detection as a table, without TensorFlow (appendix E).

A RetinaNet (Lin et al. 2017, arXiv 1708.02002) on COCO-2017 with a BiT-R101x3 as its backbone, and
RetinaNet's usual training, not the HyperRule. examples/detection.py trains by it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy

from bit_keras.schedules import warmup_staircase

# COCO-2017's images for training (cocodataset.org); the paper trains on this split.
COCO_TRAIN_IMAGES = 118_287


@dataclass(frozen=True)
class DetectionRecipe:
    """Settings of the paper's detection; the defaults are the paper's.

    Attributes:
        architecture: of the backbone.
        image_size: side of the square training images, pixels.
        num_examples: training images.
        num_classes: kinds of objects.
        epochs: passes over the data.
        decay_epochs: epochs at which the learning rate is divided by ten.
        batch_size: images of one update, over all replicas.
        learning_rate: until the first of `decay_epochs`.
        momentum: of SGD, the same in all of the paper's trainings; inferred for this one.
        weight_decay: of kernels, added to their gradient before the momentum.
        focal_alpha: weight of the objects in the focal loss; the background has 1 − α.
        focal_gamma: the focal loss's focus on what is misjudged, an exponent.
        random_flip: mirror half of the training images.
        scale_jitter: enlarge or shrink training images at random.
        min_level: finest level of the feature pyramid; level n has stride 2ⁿ.
        max_level: coarsest level. Levels 3 to 7 are RetinaNet's own.

    Source: paper, appendix E; levels: arXiv 1708.02002, section 4.

    Example:
        >>> recipe = DetectionRecipe()
        >>> recipe.steps, recipe.boundaries
        (13862, (7393, 10165))
    """

    architecture: str = "R101x3"
    image_size: int = 1024
    num_examples: int = COCO_TRAIN_IMAGES
    num_classes: int = 80
    epochs: float = 30
    decay_epochs: tuple[float, ...] = (16, 22)
    batch_size: int = 256
    learning_rate: float = 0.08
    momentum: float = 0.9
    weight_decay: float = 1e-4
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    random_flip: bool = True
    scale_jitter: bool = True
    min_level: int = 3
    max_level: int = 7

    def _steps(self, epochs: float) -> int:
        return round(epochs * self.num_examples / self.batch_size)

    @property
    def steps(self) -> int:
        """Number of updates: epochs × images / batch."""
        return self._steps(self.epochs)

    @property
    def boundaries(self) -> tuple[int, ...]:
        """Steps at which the learning rate is divided by ten."""
        return tuple(self._steps(epoch) for epoch in self.decay_epochs)

    def learning_rate_at(self, step: Any, xp: Any = numpy) -> Any:
        """The learning rate of the update at `step`, counted from 0.

            step   0     7392  7393   10164  10165   13861
            rate   0.08  0.08  0.008  0.008  0.0008  0.0008

        Args:
            step: integer, array or tensor.
            xp: the array library that computes; `keras.ops` for tensors.
        """
        return warmup_staircase(
            step, base=self.learning_rate, warmup_steps=0, boundaries=self.boundaries, xp=xp
        )

    def scaled(self, batch_size: int) -> DetectionRecipe:
        """The recipe for another batch, with the learning rate in proportion.

        Raises:
            ValueError: for a batch size below 1.

        Example:
            >>> DetectionRecipe().scaled(16).learning_rate
            0.005
        """
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1. Received: {batch_size!r}")
        rate = self.learning_rate * batch_size / self.batch_size
        return replace(self, batch_size=batch_size, learning_rate=rate)


# COCO AP that the paper reports for the recipe by the backbone's upstream data (appendix E).
PAPER_AP = MappingProxyType({"literature": 40.8, "BiT-S": 41.7, "BiT-M": 43.2, "BiT-L": 43.8})
