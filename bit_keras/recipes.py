"""The BiT-HyperRule: every setting of a transfer from the task's size, without TensorFlow.

Sources: paper section 3.3; reference code `bit_hyperrule.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy

from bit_keras.presets import parse_architecture
from bit_keras.schedules import warmup_staircase

SMALL_TASK = 20_000  # examples; fewer make a small task
MEDIUM_TASK = 500_000  # examples; fewer make a medium task, others are large
SMALL_AREA = 96 * 96  # pixels; images of less area are enlarged to 160 and cropped to 128
LEARNING_RATE = 0.003
MOMENTUM = 0.9
BATCH_SIZE = 512
MIXUP_ALPHA = 0.1


@dataclass(frozen=True)
class TransferRule:
    """Settings of one transfer; see `hyperrule`.

    There is no weight decay and no dropout, and the new head starts from zero.

    Attributes:
        resize: side in pixels to which training images are resized, as squares.
        crop: side of the random crop for training, and of the resized test image.
        steps: number of updates.
        warmup_steps: updates of linear warm-up.
        boundaries: steps at which the learning rate is divided by ten.
        mixup_alpha: parameter of MixUp's Beta(α, α), or None for no MixUp.
        learning_rate: after the warm-up.
        momentum: of SGD.
        batch_size: examples of one update, over all replicas.
        decay_after_boundary: True where each division takes effect one step later.
        derivation: how these numbers came about, in a sentence or two.
    """

    resize: int
    crop: int
    steps: int
    warmup_steps: int
    boundaries: tuple[int, ...]
    mixup_alpha: float | None
    learning_rate: float = LEARNING_RATE
    momentum: float = MOMENTUM
    batch_size: int = BATCH_SIZE
    decay_after_boundary: bool = False
    derivation: str = ""

    def learning_rate_at(self, step: Any, xp: Any = numpy) -> Any:
        """The learning rate of the update at `step`, counted from 0.

        Args:
            step: integer, array or tensor.
            xp: the array library that computes; `keras.ops` for tensors.
        """
        return warmup_staircase(
            step,
            base=self.learning_rate,
            warmup_steps=self.warmup_steps,
            boundaries=self.boundaries,
            after=self.decay_after_boundary,
            xp=xp,
        )

    def scaled(self, batch_size: int, *, steps: int | None = None) -> TransferRule:
        """The same rule for another batch size.

        The learning rate is multiplied by batch_size / 512 (linear scaling, paper section 3.3) and
        steps, warm-up and boundaries by 512 / batch_size, so that the model sees as many examples
        at as much learning rate for each. `steps` sets another length instead, with warm-up and
        boundaries at the same fractions of it: a shorter budget than the rule's.

        Raises:
            ValueError: for a batch size or a number of steps below 1.

        Example:
            >>> rule = hyperrule(5_000, 32, 32).scaled(batch_size=128)
            >>> rule.learning_rate, rule.steps, rule.boundaries
            (0.00075, 2000, (600, 1200, 1800))
        """
        if batch_size < 1 or (steps is not None and steps < 1):
            raise ValueError(
                "`batch_size` and `steps` must be at least 1. "
                f"Received: batch_size={batch_size}, steps={steps}"
            )
        factor = self.batch_size / batch_size
        length = max(1, round(self.steps * factor)) if steps is None else steps
        stretch = length / self.steps
        how = (
            f"Batch {self.batch_size} → {batch_size}: learning rate × {1 / factor:g}; "
            f"steps, warm-up and boundaries × {stretch:g}."
        )
        return replace(
            self,
            batch_size=batch_size,
            learning_rate=self.learning_rate / factor,
            steps=length,
            warmup_steps=round(self.warmup_steps * stretch),
            boundaries=tuple(round(b * stretch) for b in self.boundaries),
            derivation=f"{self.derivation} {how}".strip(),
        )


def hyperrule(
    num_examples: int,
    height: int,
    width: int,
    arch: str = "R50x1",
    variant: Literal["paper", "code"] = "paper",
) -> TransferRule:
    """The BiT-HyperRule: all settings of a transfer from the size of the task.

        examples    steps   warm-up  ÷10 at (paper)         ÷10 at (code)    MixUp α
        < 20 000       500     100   150, 300, 450          200, 300, 400    none
        < 500 000   10 000     500   3 000, 6 000, 9 000    the same         0.1
        more        20 000     500   6 000, 12 000, 18 000  the same         0.1

    Images of less than 96 × 96 pixels are resized to 160 and cropped to 128. Larger ones go from
    448 to 384 in the paper (512 to 480 for R152x4), from 512 to 480 in the code.

    Args:
        num_examples: labelled examples to train on.
        height: typical height of the task's images, pixels.
        width: typical width of the task's images, pixels.
        arch: "R152x4", or a preset's name; only R152x4 matters.
        variant: "paper" (section 3.3), or "code" (`bit_hyperrule.py`), where each division of the
            learning rate also takes effect one step after its boundary.

    Returns:
        A frozen `TransferRule`.

    Raises:
        ValueError: for a task without examples or pixels, an unknown architecture or variant.

    Example:
        >>> rule = hyperrule(50_000, 32, 32)
        >>> rule.resize, rule.crop, rule.steps, rule.mixup_alpha
        (160, 128, 10000, 0.1)
    """
    if variant not in ("paper", "code"):
        raise ValueError(f"`variant` must be 'paper' or 'code'. Received: {variant!r}")
    if min(num_examples, height, width) < 1:
        raise ValueError(
            "`num_examples`, `height` and `width` must be at least 1. "
            f"Received: {num_examples}, {height}, {width}"
        )
    code = variant == "code"
    if num_examples < SMALL_TASK:
        task, steps, warmup, alpha = "small", 500, 100, None
        boundaries = (200, 300, 400) if code else (150, 300, 450)
    elif num_examples < MEDIUM_TASK:
        task, steps, warmup, alpha = "medium", 10_000, 500, MIXUP_ALPHA
        boundaries = (3_000, 6_000, 9_000)
    else:
        task, steps, warmup, alpha = "large", 20_000, 500, MIXUP_ALPHA
        boundaries = (6_000, 12_000, 18_000)

    largest = str(parse_architecture(arch)) == "R152x4"
    if height * width < SMALL_AREA:
        resize, crop = 160, 128
    elif code or largest:
        resize, crop = 512, 480
    else:
        resize, crop = 448, 384
    return TransferRule(
        resize=resize,
        crop=crop,
        steps=steps,
        warmup_steps=warmup,
        boundaries=boundaries,
        mixup_alpha=alpha,
        decay_after_boundary=code,
        derivation=f"BiT-HyperRule ({variant}): a {task} task of {num_examples:,} examples, "
        f"images of {height}×{width}.",
    )
