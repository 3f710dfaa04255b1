"""Whether a noisy series goes anywhere: a straight line with an honest error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# One-sided 1 % points of Student's t for a line through so many block means (blocks − 2 degrees
# of freedom).
CRITICAL = {10: 2.896, 20: 2.552}


@dataclass(frozen=True)
class Trend:
    """A straight line through a stretch of a series.

    Attributes:
        slope: of the line, per unit of x.
        error: standard error of the slope.
        span: length of the stretch in x.
        level: mean of the series there.
        blocks: number of block means that the line went through.
    """

    slope: float
    error: float
    span: float
    level: float
    blocks: int

    @property
    def change(self) -> float:
        """What the line gains over the stretch."""
        return self.slope * self.span

    @property
    def change_error(self) -> float:
        """Standard error of `change`."""
        return self.error * self.span

    @property
    def falls(self) -> bool:
        """Whether it falls by more than noise alone does in one case of a hundred."""
        return self.slope < 0 and -self.slope > CRITICAL[self.blocks] * self.error

    @property
    def rises(self) -> bool:
        """Whether it rises by more than noise alone does in one case of a hundred."""
        return self.slope > 0 and self.slope > CRITICAL[self.blocks] * self.error


def block_means(values: np.ndarray, blocks: int) -> np.ndarray:
    """Means of `blocks` equal parts of a series (equal up to one element)."""
    edges = np.linspace(0, len(values), blocks + 1).astype(int)
    return np.add.reduceat(values, edges[:-1]) / np.diff(edges)


def trend(x: np.ndarray, y: np.ndarray, blocks: int) -> Trend:
    """Fits a line to the means of `blocks` parts of a series.

    Means of parts, because the noise of neighbouring steps may be alike; where even the parts'
    residuals are, the error grows by what an autoregression of first order says.

    Args:
        x: [N] ascending, N ≥ blocks.
        y: [N] finite.
        blocks: a key of `CRITICAL`.

    Example:
        >>> x = np.arange(100.0)
        >>> line = trend(x, 5 - 0.01 * x + 0.1 * np.cos(2.4 * x), 10)
        >>> round(line.change, 1), line.falls
        (-1.0, True)
    """
    means, places = block_means(y, blocks), block_means(x, blocks)
    centred = places - places.mean()
    squares = float(centred @ centred)
    slope = float(centred @ means) / squares
    residuals = means - means.mean() - slope * centred
    power = float(residuals @ residuals)
    alike = float(residuals[1:] @ residuals[:-1]) / power if power > 0 else 0.0
    alike = min(max(alike, 0.0), 0.8)
    error = np.sqrt(power / (blocks - 2) / squares * (1 + alike) / (1 - alike))
    return Trend(slope, float(error), float(x[-1] - x[0]), float(means.mean()), blocks)
