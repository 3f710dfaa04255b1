"""A profiled step as tables and a picture: time by kind of work, and the rate of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.speed.profile_kinds import BETWEEN, Layer, kind_of, layer_of, least_work
from benchmarks.speed.results import Bars, Table

LEAST_SHARE = 0.005  # of the step; kinds below it are one row
COSTLIEST = 12  # rows of types of operations


@dataclass(frozen=True)
class Settings:
    """What is profiled.

    Attributes:
        step: "inference" or "training".
        batch: images in it.
        side: of them, pixels.
        arch: depth and width of the network, such as "50x1".
        precision: "float32" or "bfloat16".
    """

    step: str
    batch: int
    side: int = 224
    arch: str = "50x1"
    precision: str = "float32"

    def __str__(self) -> str:
        of = {"inference": "Inference", "training": "Training step"}[self.step]
        return f"{of}, R{self.arch} at {self.side}², {self.precision}, batch {self.batch}"

    def worker(self) -> dict[str, Any]:
        """Settings of `profile_worker`."""
        depth, width = self.arch.split("x")
        return {
            "step": self.step,
            "batch": self.batch,
            "side": self.side,
            "depth": int(depth),
            "width": float(width),
            "precision": self.precision,
        }


@dataclass(frozen=True)
class Profile:
    """What a process found out about its step; seconds of one step everywhere.

    Attributes:
        settings: of the step.
        plain: without the profiler.
        profiled: with it, the sum of all operations and the time between them.
        ops: name, type and seconds of each operation.
        idle: in which none ran.
        layers: of the network.
        ceilings: "gflops" and "gbs" that the process reached.
    """

    settings: Settings
    plain: float
    profiled: float
    ops: Sequence[tuple[str, str, float]]
    idle: float
    layers: Sequence[Layer]
    ceilings: dict[str, float]

    def kinds(self) -> dict[str, float]:
        """Seconds of each kind of work, the longest first."""
        found = defaultdict(float, {BETWEEN: self.idle})
        for kind, _, seconds in self._told():
            found[kind] += seconds
        return dict(sorted(found.items(), key=lambda entry: -entry[1]))

    def types(self) -> list[tuple[str, str, int, float]]:
        """Kind, type, number and seconds of operations of that type, the longest first."""
        found: dict[tuple[str, str], list[float]] = defaultdict(list)
        for kind, of_type, seconds in self._told():
            found[kind, of_type].append(seconds)
        rows = [(kind, name, len(times), sum(times)) for (kind, name), times in found.items()]
        return sorted(rows, key=lambda row: -row[3])

    def _told(self) -> list[tuple[str, str, float]]:
        sides = {x.name: x.kernel[0] for x in self.layers if len(x.kernel) == 4}
        return [(kind_of(name, kind, sides), kind, seconds) for name, kind, seconds in self.ops]

    def work(self) -> dict[str, tuple[float, float]]:
        """See `profile_kinds.least_work`; GB in the step's precision."""
        half = 0.5 if self.settings.precision == "bfloat16" else 1.0
        found = least_work(self.layers, self.settings.step == "training")
        return {kind: (gflop, half * gb) for kind, (gflop, gb) in found.items()}


def kinds_table(profile: Profile) -> Table:
    """Time of each kind of work, and beside it the rate at which the least of it was done."""
    work, rows, rest = profile.work(), [], 0.0
    for kind, seconds in profile.kinds().items():
        if seconds < LEAST_SHARE * profile.profiled and kind not in work:
            rest += seconds
            continue
        rows.append((kind, *_time(seconds, profile), *_rate(seconds, work.get(kind), profile)))
    if rest:
        rows.append((f"what is below {LEAST_SHARE:.1%}", *_time(rest, profile), "", "", ""))
    gflop = sum(of for of, _ in work.values())
    rate = _rate(profile.profiled, (gflop, 0), profile)
    rows.append(("the whole step", *_time(profile.profiled, profile), *rate))
    title = f"{profile.settings}: {1000 * profile.plain:.1f} ms without the profiler"
    return Table(title, ("", "ms", "share", "least work", "rate", "of ceiling"), rows, "lrrrrr")


def _time(seconds: float, profile: Profile) -> tuple[str, str]:
    return f"{1000 * seconds:.2f}", f"{seconds / profile.profiled:.1%}"


def _rate(
    seconds: float, work: tuple[float, float] | None, profile: Profile
) -> tuple[str, str, str]:
    if not work or not seconds:
        return "", "", ""
    gflop, gb = work
    amount, unit, ceiling = (
        (gflop, "GFLOP", profile.ceilings["gflops"])
        if gflop
        else (gb, "GB", profile.ceilings["gbs"])
    )
    rate = amount / seconds
    return f"{amount:.3g} {unit}", f"{rate:.1f} {unit}/s", f"{rate / ceiling:.0%}"


def types_table(profile: Profile, rows: int = COSTLIEST) -> Table:
    """The types of operations that cost most, by kind of work."""
    shown = [
        (kind, name, str(count), *_time(seconds, profile))
        for kind, name, count, seconds in profile.types()[:rows]
    ]
    title = f"{profile.settings}: the costliest operations"
    return Table(title, ("", "type", "in a step", "ms", "share"), shown, "llrrr")


def convolutions_table(profile: Profile) -> Table:
    """Every shape of convolution: time, and rate beside the ceiling."""
    layers = {layer.name: layer for layer in profile.layers if len(layer.kernel) == 4}
    sides = {name: layer.kernel[0] for name, layer in layers.items()}
    times: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for name, kind, seconds in profile.ops:
        layer, of = layers.get(layer_of(name)), kind_of(name, kind, sides)
        if layer and of.startswith("convolution"):
            _, _, before, after = layer.kernel
            shape = f"{before}→{after} to {layer.output[1]}²"
            entry = times[of, shape]
            entry[0] += seconds
            entry[1] += sum(gflop for gflop, _ in least_work([layer], False).values())
    rows = [
        (of, shape, *_time(seconds, profile), *_rate(seconds, (gflop, 0.0), profile))
        for (of, shape), (seconds, gflop) in sorted(times.items(), key=lambda x: -x[1][0])
    ]
    header = ("", "channels", "ms", "share", "work", "rate", "of ceiling")
    return Table(f"{profile.settings}: convolutions", header, rows, "llrrrrr")


def bars(profile: Profile) -> Bars:
    """Milliseconds of each kind of work."""
    values = [
        (kind, 1000 * seconds, 1000 * seconds, 1000 * seconds)
        for kind, seconds in profile.kinds().items()
        if seconds >= LEAST_SHARE * profile.profiled
    ]
    return Bars(f"{profile.settings}: where the time goes", "ms", values)
