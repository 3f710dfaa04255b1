"""Part of the benchmark: whether the cost of an image grows as its pixels do, in every batch."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.speed.contest import PAUSE, Contestant, Process, started
from benchmarks.speed.results import Bars, Part, Table, Target
from benchmarks.speed.training import Size, write_inputs

Combination = tuple[int, int]  # side in pixels, images in a call

FULL = Size(50, 1, 1000, 224, (1, 8, 32), 3, 0.7)
QUICK = Size(26, 0.5, 100, 224, (1, 8), 2, 0.2)
SIDES, QUICK_SIDES = (128, 224, 320, 480), (128, 224)
ALLOWED = 1.10  # of the largest rate to the smallest
LONGEST = 10.0  # seconds of a call; combinations that take more are left out
TOLERANCE = 1e-3  # of the largest logit


@dataclass(frozen=True)
class Growth:
    """What was found.

    Attributes:
        rates: megapixel/s in each round, by combination.
        left_out: combinations whose calls would have taken more than `LONGEST`.
    """

    rates: dict[Combination, list[float]]
    left_out: Sequence[Combination] = ()

    @property
    def typical(self) -> dict[Combination, float]:
        """Medians of the rounds."""
        return {combination: median(rates) for combination, rates in self.rates.items()}

    @property
    def spread(self) -> tuple[float, float, float]:
        """Largest rate by the smallest: of the medians, and the least and most of a round."""
        rounds = list(zip(*self.rates.values(), strict=True))
        each = [max(rates) / min(rates) for rates in rounds]
        typical = self.typical.values()
        return max(typical) / min(typical), min(each), max(each)

    def target(self) -> Target:
        """Target 7's first."""
        ratio, least, most = self.spread
        typical = self.typical
        slowest, fastest = min(typical, key=typical.__getitem__), max(typical, key=typical.get)  # type: ignore[arg-type]
        why = (
            f"Slowest is {_said(slowest)} with {typical[slowest]:.3f} megapixel/s, "
            f"{typical[slowest] / typical[fastest]:.2f} of those of {_said(fastest)}."
        )
        sides, batches = zip(*typical, strict=True)
        asked = (
            f"images/s × pixels from {min(sides)}² to {max(sides)}², batch {min(batches)} to "
            f"{max(batches)}: largest ≤ {ALLOWED:.2f} × smallest"
        )
        reached = ratio <= ALLOWED
        found = f"{ratio:.2f} ({least:.2f}–{most:.2f})"
        return Target("7", asked, found, reached, "" if reached else why)

    def table(self, title: str) -> Table:
        """Megapixel/s: sides in rows, batches in columns."""
        typical = self.typical
        sides = sorted({side for side, _ in [*typical, *self.left_out]})
        batches = sorted({batch for _, batch in [*typical, *self.left_out]})

        def cell(side: int, batch: int) -> str:
            rates = self.rates.get((side, batch))
            if rates is None:
                return "–"
            return f"{median(rates):.3f} ({min(rates):.3f}–{max(rates):.3f})"

        rows = [(f"{side}²", *(cell(side, batch) for batch in batches)) for side in sides]
        header = ("megapixel/s", *(f"batch {batch}" for batch in batches))
        return Table(title, header, rows, "l" + "r" * len(batches))

    def bars(self, title: str) -> Bars:
        """One bar for each combination, in the order of their pixels."""
        values = [
            (f"bit_keras, {side}², batch {batch}", median(rates), min(rates), max(rates))
            for (side, batch), rates in self.rates.items()
        ]
        return Bars(title, "megapixel/s", values)


def _said(combination: Combination) -> str:
    return f"{combination[0]}² with batch {combination[1]}"


def _same(single: np.ndarray, batched: np.ndarray, combination: Combination) -> None:
    """Checks that an image's logits [K] are those that it has alone.

    Raises:
        RuntimeError: when they are not.
    """
    apart = float(np.abs(single - batched).max() / np.abs(single).max())
    if not apart <= TOLERANCE:  # also for NaN
        raise RuntimeError(
            f"At {_said(combination)} the first image's logits differ from those that it has alone "
            f"by {apart:.1e} of the largest; {TOLERANCE:g} is allowed."
        )


def _checked(process: Process, combinations: Sequence[Combination]) -> list[Combination]:
    """Warms up all combinations whose calls are not too long, and returns those."""
    kept: list[Combination] = []
    alone: dict[int, np.ndarray] = {}  # logits by side
    pace = 0.0  # seconds of a pixel in the combination before
    for side, batch in combinations:
        if pace * batch * side**2 > LONGEST:
            print(f"growth: {_said((side, batch))} takes too long", file=sys.stderr)
            continue
        print(f"growth: {_said((side, batch))}", file=sys.stderr)
        process.ask("first", side=side, batch=1)  # so that what comes only once is not in the pace
        before = time.perf_counter()
        logits = np.array(process.ask("first", side=side, batch=batch))
        pace = (time.perf_counter() - before) / (batch * side**2)
        _same(alone.setdefault(side, logits), logits, (side, batch))
        kept.append((side, batch))
    return kept


def _measured(
    process: Process, kept: Sequence[Combination], size: Size
) -> dict[Combination, list[float]]:
    """Megapixel/s of each combination in each round; the order is reversed every other round."""
    rates: dict[Combination, list[float]] = {combination: [] for combination in kept}
    for number in range(size.rounds):
        print(f"growth: round {number + 1} of {size.rounds}", file=sys.stderr)
        for side, batch in kept if number % 2 == 0 else reversed(kept):
            time.sleep(PAUSE)
            took = median(process.ask("run", side=side, batch=batch, seconds=size.seconds))
            rates[side, batch].append(batch * side**2 / 1e6 / took)
    return rates


def measure(quick: bool) -> Part:
    """Measures the serving module with images of several sizes and numbers, in turns.

    Args:
        quick: a smaller network, fewer rounds, sizes and numbers.

    Raises:
        ExportError: when the module does not answer as the model does.
        RuntimeError: when an image is answered otherwise in a batch than alone.
    """
    from bit_keras import ResNetV2, export_module, load_npz

    size, sides = (QUICK, QUICK_SIDES) if quick else (FULL, SIDES)
    combinations = list(product(sides, size.batches))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = ResNetV2(size.depth, size.width, size.classes)
        load_npz(model, write_inputs(size, folder)["weights"])
        print("growth: exporting", file=sys.stderr)
        module = str(export_module(model, folder / "module", kind="serving"))
        contestant = Contestant("bit_keras", "benchmarks.speed.growth_worker", {"module": module})
        with started([contestant]) as [process]:
            kept = _checked(process, combinations)
            rates = _measured(process, kept, size)
            versions = process.about["versions"]
    found = Growth(rates, [c for c in combinations if c not in rates])
    title = f"Megapixel/s of R{size.depth}x{size.width:g}"
    return Part(
        "growth",
        "Growth of the cost",
        _method(size, found),
        tables=[found.table(title)],
        bars=[found.bars(title)],
        targets=[] if quick else [found.target()],
        versions=versions,
    )


def _method(size: Size, found: Growth) -> str:
    left_out = "; ".join(map(_said, found.left_out))
    return (
        f"One process with the float32 serving module of R{size.depth}x{size.width:g} answers "
        "random images of one size and number after the other, in turns. Cost that grows with the "
        "pixels alone gives the same megapixel/s everywhere. Medians of "
        f"{size.rounds} rounds, with their range. Before anything is timed, an image's logits in "
        f"a batch must be those that it has alone, within {TOLERANCE:g} of the largest."
        + (f" Left out, for a call takes more than {LONGEST:g} s: {left_out}." if left_out else "")
    )
