"""Part of the benchmark: what this machine does at most, in products and in memory traffic."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.speed.contest import Contestant, Process, started
from benchmarks.speed.inference import FLOP_224
from benchmarks.speed.results import Part, Table

# (m, k, n) of [m, k] × [k, n]: two large ones, then 1×1 convolutions of R50x1 on 8 images of 224²
# (blocks 1 and 2), and a 3×3 one of block 3 as a product.
SHAPES = (
    (2048, 2048, 2048),
    (4096, 1024, 1024),
    (25088, 256, 64),
    (6272, 512, 128),
    (1568, 2304, 256),
)
SIZES = (25_690_112, 400_000_000)  # bytes: [8, 56, 56, 256] in float32, and far beyond any cache
PRECISIONS = {"float32": "flops32", "bfloat16": "flops16"}
Rates = list[tuple[float, float]]


@dataclass(frozen=True)
class Ceilings:
    """What was reached: for each shape or size the median of the calls and the best one.

    Attributes:
        flops: operations/s by precision, in the order of `SHAPES`.
        bandwidth: bytes/s, read and written, in the order of `SIZES`.
    """

    flops: dict[str, Rates]
    bandwidth: Rates

    def product(self, precision: str) -> float:
        """The most operations/s of any product."""
        return max(best for _, best in self.flops[precision])

    def traffic(self) -> float:
        """The most bytes/s, read and written."""
        return max(best for _, best in self.bandwidth)


def best_of(rounds: Sequence[Rates]) -> Rates:
    """The largest median and the best call of several rounds, for each shape.

    Example:
        >>> best_of([[(1.0, 4.0)], [(2.0, 3.0)]])
        [(2.0, 4.0)]
    """
    return [(max(m for m, _ in of), max(b for _, b in of)) for of in zip(*rounds, strict=True)]


def reached(process: Process, rounds: int, seconds: float) -> Ceilings:
    """Measures all of them in turns.

    Args:
        process: of `ceilings_worker`.
        rounds: of turns.
        seconds: for each shape and size in each round.
    """
    flops: dict[str, list[Rates]] = {precision: [] for precision in PRECISIONS}
    bandwidth: list[Rates] = []
    for number in range(rounds):
        print(f"ceilings: round {number + 1} of {rounds}", file=sys.stderr)
        for precision, task in PRECISIONS.items():
            flops[precision].append(process.ask(task, shapes=SHAPES, seconds=seconds))
        bandwidth.append(process.ask("bandwidth", sizes=SIZES, seconds=seconds))
    return Ceilings({p: best_of(found) for p, found in flops.items()}, best_of(bandwidth))


def measure(quick: bool) -> Part:
    """Measures matrix products and memory traffic in TensorFlow.

    Args:
        quick: fewer rounds.
    """
    with started([Contestant("ceilings", "benchmarks.speed.ceilings_worker")]) as (process,):
        found = reached(process, *((1, 0.2) if quick else (4, 0.5)))
        versions = process.about["versions"]
    return Part(
        "ceilings",
        "Ceilings of this machine",
        "Products of two matrices and x + 1 (one read and one write of the tensor) in a "
        "`tf.function`, on all cores: the best of all calls, and the largest median of a round. "
        f"R50x1 takes {FLOP_224 / 1e9:.2f} GFLOP for an image of 224², so that no more images/s "
        "are possible than the best product's operations/s divided by that. Other parts measure "
        "the ceiling that they are held against again, in the same turns as what they measure.",
        tables=[products(found), traffic(found), floor(found)],
        versions=versions,
    )


def products(found: Ceilings) -> Table:
    """GFLOP/s of all products."""
    rows = [
        (
            f"[{m}, {k}] × [{k}, {n}]",
            *(
                f"{rate / 1e9:.0f}"
                for precision in PRECISIONS
                for rate in reversed(found.flops[precision][i])
            ),
        )
        for i, (m, k, n) in enumerate(SHAPES)
    ]
    kinds = [kind for p in PRECISIONS for kind in (f"{p}, GFLOP/s", f"{p}, median")]
    return Table("Matrix products", ("", *kinds), rows, "lrrrr")


def traffic(found: Ceilings) -> Table:
    """GB/s of reading and writing."""
    rows = [
        (f"{size / 1e6:.1f} MB", f"{best / 1e9:.1f}", f"{typical / 1e9:.1f}")
        for size, (typical, best) in zip(SIZES, found.bandwidth, strict=True)
    ]
    header = ("tensor", "read + written, GB/s", "median")
    return Table("Memory: x + 1 in float32", header, rows, "lrr")


def floor(found: Ceilings) -> Table:
    """Images/s of R50x1 were everything as fast as the best product."""
    rows = []
    for precision in PRECISIONS:
        images = found.product(precision) / FLOP_224
        rows.append((precision, f"{images:.1f}", f"{1e3 / images:.1f}"))
    header = ("", "images/s at most", "ms an image at least")
    return Table("R50x1 at 224² as a matrix product", header, rows, "lrr")
