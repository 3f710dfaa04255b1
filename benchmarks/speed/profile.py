"""Part of the benchmark: where the time of a step goes, by kind of operation.

    python -m benchmarks.speed.profile [--step training] [--batch 8] [--side 224] [--arch 50x1]
        [--precision bfloat16] [--detail]

prints the profile of one step. Times are shared out between operations that run at once, so that
they and the time in which none ran add up to the whole step.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from benchmarks.speed.contest import Contestant, started
from benchmarks.speed.profile_kinds import Layer
from benchmarks.speed.profile_tables import (
    Profile,
    Settings,
    bars,
    convolutions_table,
    kinds_table,
    types_table,
)
from benchmarks.speed.results import Part
from bit_keras.text import table

FULL = (
    Settings("inference", 8),
    Settings("inference", 1),
    Settings("inference", 8, precision="bfloat16"),
    Settings("training", 8),
    Settings("training", 8, precision="bfloat16"),
)
QUICK = tuple(Settings(step, 8, 96, "26x0.5") for step in ("inference", "training"))


def profiled(settings: Settings, steps: int, seconds: float) -> tuple[Profile, dict[str, str]]:
    """Profiles a step in a process of its own; the profile and the versions of the libraries.

    Args:
        settings: of the step.
        steps: to profile.
        seconds: about so long without the profiler, and for each ceiling.

    Raises:
        RuntimeError: when the process fails.
    """
    contestant = Contestant(str(settings), "benchmarks.speed.profile_worker", settings.worker())
    with started([contestant]) as (process,):
        layers = [Layer(**layer) for layer in process.ask("layers")]
        before = process.ask("ceilings", seconds=seconds / 2)
        found = process.ask("profile", steps=steps, seconds=seconds)
        after = process.ask("ceilings", seconds=seconds / 2)
        ceilings = {name: max(rate, after[name]) for name, rate in before.items()}
        profile = Profile(settings, layers=layers, ceilings=ceilings, **found)
        return profile, process.about["versions"]


def measure(quick: bool) -> Part:
    """Profiles steps of inference and training.

    Args:
        quick: a small network, in float32.
    """
    found: list[Profile] = []
    versions: dict[str, str] = {}
    for settings in QUICK if quick else FULL:
        print(f"profile: {settings}", file=sys.stderr)
        profile, versions = profiled(settings, 5, 1.0)
        found.append(profile)
    ceilings = ", ".join(
        f"{p.ceilings['gflops']:.0f} GFLOP/s and {p.ceilings['gbs']:.1f} GB/s ({p.settings})"
        for p in found
    )
    return Part(
        "profile",
        "Where the time goes",
        "The serving module and a training step under TensorFlow's profiler: the median of five "
        "steps. Where several operations run at once the time is shared out, so that a column "
        "adds up to the step. “Least work” is what cannot be saved: the multiplications and "
        "additions of the convolutions (two for each product), and for the other kinds every "
        "tensor read and written once. The ceilings are the best of a product of two 2048² "
        f"matrices and of x + 1 on 26 MB (float32), in the same process: {ceilings}.",
        tables=[make(p) for p in found for make in (kinds_table, types_table)],
        bars=[bars(p) for p in found],
        versions=versions,
    )


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.profile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--step", choices=("inference", "training"), default="inference")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--arch", default="50x1")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--steps", type=int, default=5, help="to profile")
    parser.add_argument("--detail", action="store_true", help="types and convolutions as well")
    options = parser.parse_args(arguments)
    settings = Settings(options.step, options.batch, options.side, options.arch, options.precision)
    profile, _ = profiled(settings, options.steps, 1.0)
    tables = [kinds_table(profile)]
    if options.detail:
        tables += [types_table(profile, 30), convolutions_table(profile)]
    for found in tables:
        print(f"{found.title}\n\n{table(found.header, found.rows, found.align)}\n")
    print("Ceilings: {gflops:.0f} GFLOP/s, {gbs:.1f} GB/s".format(**profile.ceilings))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
