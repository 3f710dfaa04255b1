"""Means of the loss over a short and a long window of steps."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np


class _RunningMean:
    """Mean of the last `length` numbers, of fewer at the beginning; constant time a number."""

    def __init__(self, length: int) -> None:
        self.length = length
        self._values = np.zeros(length)
        self._count = 0
        self._sum = 0.0

    def update(self, value: float) -> float:
        place = self._count % self.length
        self._sum += value - float(self._values[place])
        self._values[place] = value
        self._count += 1
        if place == self.length - 1:  # once a turn, so that rounding does not add up
            self._sum = math.fsum(self._values)
        return self._sum / min(self._count, self.length)


class LossWindows:
    """The mean loss of the last steps, on a short and on a long window.

    The paper's advice on patience (section 4.2, Figure 4) needs both: the short one is what the eye
    sees while a run goes on, the long one tells whether the loss still falls beneath the noise.

    Args:
        short: steps in the short window.
        long: steps in the long one.

    Raises:
        ValueError: when a window is empty or the short one is not the shorter.

    Example:
        >>> windows = LossWindows(short=2, long=4)
        >>> [windows.update(loss) for loss in (8.0, 4.0, 2.0)][-1]
        {'loss_short': 3.0, 'loss_long': 4.666666666666667}
    """

    def __init__(self, short: int, long: int) -> None:
        if not 1 <= short < long:
            raise ValueError(
                "The windows must have 1 ≤ short < long steps. "
                f"Received: short={short}, long={long}."
            )
        self.short, self.long = short, long
        self._means = {"loss_short": _RunningMean(short), "loss_long": _RunningMean(long)}

    @classmethod
    def for_run(cls, steps: int) -> LossWindows:
        """The windows for a run of `steps`: 0.5 % and 5 % of it, at least 10 and 50 steps.

        Example:
            >>> windows = LossWindows.for_run(28_151)
            >>> windows.short, windows.long
            (140, 1407)
        """
        return cls(short=max(10, steps // 200), long=max(50, steps // 20))

    def update(self, loss: float) -> dict[str, float]:
        """Takes the loss of one more step.

        Returns:
            {"loss_short": mean of the last `short` losses, "loss_long": of the last `long`}, of
            fewer while there are not so many yet.
        """
        return {name: mean.update(loss) for name, mean in self._means.items()}

    def refill(self, losses: Iterable[float]) -> LossWindows:
        """Takes the losses before the step where a run is resumed, in order; returns itself."""
        for loss in losses:
            self.update(loss)
        return self


def moving_mean(values: np.ndarray, window: int) -> np.ndarray:
    """What a window of `LossWindows` shows at each place, all at once.

    Args:
        values: [N].
        window: length.

    Returns:
        [N]: mean of the last `window` values, over fewer at the beginning.

    Example:
        >>> moving_mean(np.array([8.0, 4.0, 2.0]), 2).tolist()
        [8.0, 6.0, 3.0]
    """
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    begins = np.maximum(0, ends - window)
    return (sums[ends] - sums[begins]) / (ends - begins)
