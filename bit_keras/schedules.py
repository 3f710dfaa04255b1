"""Learning rates as pure functions of the step, without TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy


def warmup_staircase(
    step: Any,
    *,
    base: float,
    warmup_steps: int,
    boundaries: Sequence[int],
    decay: float = 0.1,
    after: bool = False,
    xp: Any = numpy,
) -> Any:
    """Linear warm-up from 0 to `base`, then × `decay` at each boundary (paper, section 3.3).

    The rate at a step is the rate of the update that takes the model from that step to the next;
    the first step is 0. With base 0.003, 100 warm-up steps and boundaries 150, 300, 450:

        step   0    50      99       100    149    150     300      450
        rate   0    0.0015  0.00297  0.003  0.003  0.0003  0.00003  0.000003

    Args:
        step: an integer, an array or a tensor of steps.
        base: rate after the warm-up.
        warmup_steps: length of the warm-up; 0 for none.
        boundaries: steps at which the rate drops, ascending.
        decay: factor of each drop.
        after: drop one step after each boundary, as the reference code does (`s < step`).
        xp: the array library that computes, `numpy` or `keras.ops`.

    Returns:
        The learning rate, a scalar or an array of the shape of `step`.
    """
    # True division makes floats of integer tensors, with and without a warm-up.
    ramp = step / warmup_steps if warmup_steps else 1.0 + 0.0 * (step / 1)
    rate = base * xp.minimum(ramp, 1.0)
    for boundary in boundaries:
        dropped = step > boundary if after else step >= boundary
        rate = xp.where(dropped, rate * decay, rate)
    return rate
