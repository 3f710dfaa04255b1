"""Part of the benchmark: memory of one update on large images, in micro-batches and recomputed."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.speed.contest import Contestant, started
from benchmarks.speed.results import Bars, Part, Table, Target
from benchmarks.speed.training import LOSS_TOLERANCE, Size, ours, timm, write_inputs

FULL = Size(50, 1, 1000, 480, (32,), 1, 0.0)
QUICK = Size(26, 0.5, 100, 160, (16,), 1, 0.0)
TIMM = "timm"
MIB = 2**20


@dataclass(frozen=True)
class Run:
    """One process with one update.

    Attributes:
        name: of the contestant.
        peak: the most memory that the process held, bytes.
        before: what it held before the network was made, bytes.
        seconds: of the update.
        loss: before the update.
    """

    name: str
    peak: int
    before: int
    seconds: float
    loss: float


def name_of(parts: int) -> str:
    """The name of ours in so many micro-batches."""
    return f"bit_keras, {parts} micro-batches, recomputed"


def available_bytes() -> int:
    """What the kernel says that new programs can have."""
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))


def check_available(needed: int, available: int) -> None:
    """Refuses to start what would drive the machine out of memory.

    Raises:
        RuntimeError: with what is missing, and what to do.
    """
    if available < needed:
        raise RuntimeError(
            f"The memory part needs about {needed / 1e9:.0f} GB for timm's update, and "
            f"{available / 1e9:.1f} GB are available. End other programs, take a larger machine, "
            "or run it smaller with --quick."
        )


def _needed(size: Size) -> int:
    from bit_keras.memory import update_bytes
    from bit_keras.presets import Architecture

    # A quarter more than ours in one piece, for what PyTorch takes beside the activations.
    return update_bytes(Architecture(size.depth, size.width), size.side, size.batches[0]) * 5 // 4


def _contestants(inputs: dict[str, Any], quick: bool) -> Iterator[Contestant]:
    """One after the other; timm, and ours in the fewest parts, come twice, first and last."""
    for parts in (0, 4, 0) if quick else (0, 4, 8, 16, 32, 4, 0):
        if parts:
            yield ours(name_of(parts), inputs, microbatches=parts, remat=True)
        else:
            yield timm(TIMM, inputs)


def run(contestant: Contestant, batch: int) -> tuple[Run, dict[str, str]]:
    """One update in a process of its own; and the versions in it."""
    name = contestant.name
    with started([contestant]) as (process,):
        process.ask("trace", batch=batch)
        begin = time.perf_counter()
        (loss,) = process.ask("losses", batch=batch, count=1)
        seconds = time.perf_counter() - begin
        memory = process.ask("memory")
        return Run(name, memory["peak"], memory["before"], seconds, loss), process.about["versions"]


def check(runs: Sequence[Run]) -> None:
    """Refuses figures of contestants that compute something else.

    Raises:
        RuntimeError: with both losses.
    """
    for found in runs:
        if abs(found.loss - runs[0].loss) > LOSS_TOLERANCE * abs(runs[0].loss):
            raise RuntimeError(
                f"{found.name} has a loss of {found.loss}, {runs[0].name} one of {runs[0].loss}, "
                "from the same weights and images: its memory says nothing."
            )


@dataclass(frozen=True)
class Figures:
    """The runs of one contestant together: the larger memory, the median time."""

    name: str
    peak: int
    own: int
    seconds: float
    least: float
    most: float


def figures(runs: Sequence[Run]) -> list[Figures]:
    """Of all contestants, in the order in which they came first.

    Example:
        >>> figures([Run("a", 9, 2, 1.0, 5.0), Run("a", 8, 2, 2.0, 5.0)])
        [Figures(name='a', peak=9, own=7, seconds=1.5, least=1.0, most=2.0)]
    """
    found = []
    for name in dict.fromkeys(run.name for run in runs):
        own = [run for run in runs if run.name == name]
        times = [run.seconds for run in own]
        peak, beside = max(r.peak for r in own), max(r.peak - r.before for r in own)
        found.append(Figures(name, peak, beside, median(times), min(times), max(times)))
    return found


def targets(found: Sequence[Figures]) -> list[Target]:
    """Target 5: one setting of ours must reach both; the fastest of those with little memory."""
    base = next(f for f in found if f.name == TIMM)
    candidates = [f for f in found if f.name != TIMM]
    small = [f for f in candidates if 3 * f.peak <= base.peak]
    best = min(small or candidates, key=lambda f: f.seconds if small else f.peak)
    peak, ratio = best.peak / base.peak, best.seconds / base.seconds
    low, high = best.least / base.most, best.most / base.least
    return [
        Target("5", "memory of an update at 480², batch 32: ≤ 1/3 of timm's peak",
               f"{peak:.2f} ({best.name})", peak <= 1 / 3),
        Target("5", "its time: ≤ 1.35 × timm's",
               f"{ratio:.2f} ({low:.2f}–{high:.2f}; {best.name})", ratio <= 1.35),
    ]  # fmt: skip


def measure(quick: bool) -> Part:
    """Measures the memory and time of one update, each in a fresh process.

    Args:
        quick: a smaller network and smaller images, which show that it runs and no more.

    Raises:
        RuntimeError: where too little memory is available, or losses differ.
    """
    size = QUICK if quick else FULL
    runs: list[Run] = []
    versions: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        inputs = write_inputs(size, Path(folder))
        for contestant in _contestants(inputs, quick):
            check_available(_needed(size), available_bytes())
            print(f"memory: {contestant.name}", file=sys.stderr)
            found, used = run(contestant, size.batches[0])
            runs.append(found)
            versions |= used
            check(runs)
    found_all = figures(runs)
    return Part(
        "memory",
        "Memory of a training step",
        f"One update of {size}, batch {size.batches[0]}, float32, in a fresh process each, one "
        "process at a time; the peak is the kernel's own account of the process (VmHWM), and the "
        "second figure what it held beyond what it had before the network was made. Ours computes "
        "the batch in parts and keeps the units' inputs only, as `bit-keras pretrain "
        "--microbatches=N --remat` does; timm computes it in one piece. Compiling is not in the "
        f"time. Losses agree within {LOSS_TOLERANCE:g}. timm came first and last.",
        tables=[_table(found_all, size)],
        bars=[_bars(found_all, size)],
        targets=[] if quick else targets(found_all),
        versions=versions,
    )


def _table(found: Sequence[Figures], size: Size) -> Table:
    base = next(f for f in found if f.name == TIMM)
    rows = [
        (f.name, f"{f.peak / MIB:,.0f}", f"{f.own / MIB:,.0f}", f"{f.peak / base.peak:.2f}",
         f"{f.seconds:.1f}", f"{f.seconds / base.seconds:.2f}")
        for f in found
    ]  # fmt: skip
    header = ("", "peak, MiB", "for the update, MiB", "peak × timm's", "s", "time × timm's")
    return Table(f"One update of {size}, batch {size.batches[0]}", header, rows, "lrrrrr")


def _bars(found: Sequence[Figures], size: Size) -> Bars:
    values = [(f.name, f.peak / MIB, f.peak / MIB, f.peak / MIB) for f in found]
    return Bars(f"Peak memory of one update of {size}, batch {size.batches[0]}", "MiB", values)
