"""What a part of the benchmark found: tables, bars to draw and targets; kept as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.speed.contest import Measured
from bit_keras.files import replacing


@dataclass(frozen=True)
class Target:
    """One thing asked for.

    Attributes:
        number: of the target, such as "1" or "4b".
        asked: what, with its figure: "float32, batch 8: ≥ 1.15 × the fastest peer".
        found: the figure, with its range where it has one: "1.08 (1.05–1.11)".
        reached: whether it was.
        why: what holds it back, when it was not; see the profile of that name.
    """

    number: str
    asked: str
    found: str
    reached: bool
    why: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of text under a header; `align` as for `bit_keras.text.table`."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    align: str


@dataclass(frozen=True)
class Bars:
    """Bars to draw: one for each label, as long as its value, with the range of the rounds.

    Attributes:
        title: of the picture.
        unit: of the values, such as "images/s".
        values: (label, median, least, most); ours start with "bit_keras".
        line: a ceiling to draw across, with its name.
    """

    title: str
    unit: str
    values: Sequence[tuple[str, float, float, float]]
    line: tuple[str, float] | None = None


@dataclass(frozen=True)
class Curves:
    """Lines to draw.

    Attributes:
        title: of the picture.
        x: label of the horizontal axis.
        y: label of the vertical axis.
        series: (name, xs, ys), all numbers finite.
    """

    title: str
    x: str
    y: str
    series: Sequence[tuple[str, Sequence[float], Sequence[float]]]


@dataclass(frozen=True)
class Part:
    """One part of the benchmark.

    Attributes:
        name: of its file.
        title: its heading.
        method: what was done, a paragraph.
        tables, bars, targets, curves: what was found.
        versions: of the libraries that took part.
    """

    name: str
    title: str
    method: str
    tables: list[Table]
    bars: list[Bars] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    curves: list[Curves] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        """Writes FOLDER/NAME.json."""
        with replacing(folder / f"{self.name}.json") as partial:
            partial.write_text(json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False))

    @classmethod
    def read(cls, path: Path) -> Part:
        """What `write` wrote."""
        data = json.loads(path.read_text())
        kinds = {"tables": Table, "bars": Bars, "targets": Target, "curves": Curves}
        for name, kind in kinds.items():
            data[name] = [kind(**entry) for entry in data.get(name, ())]
        return cls(**data)


def rates_table(
    title: str, measured: Sequence[Measured], images: int, base: str, notes: dict[str, str]
) -> Table:
    """Images/s of all, and how many times as fast as `base` they are, round by round.

    Args:
        title: of the table.
        measured: of every contestant, for `images` images a call.
        images: in a call.
        base: name of the one that the others are compared with.
        notes: of the outputs' agreement, by name.
    """
    compared = next(m for m in measured if m.name == base)
    rows = []
    for m in measured:
        ratio, least, most = m.ratio_to(compared)
        rows.append((m.name, f"{images / m.typical:.1f}", f"{ratio:.2f}",
                     f"{least:.2f}–{most:.2f}", notes.get(m.name, "")))  # fmt: skip
    header = ("", "images/s", f"× {base}", "range", "difference of outputs")
    return Table(title, header, rows, "lrrrr")


def rates_bars(
    title: str, measured: Sequence[Measured], images: int, ceiling: tuple[str, float] | None = None
) -> Bars:
    """Bars of images/s, the fastest first."""
    ordered = sorted(measured, key=lambda m: m.typical)
    values = [
        (m.name, images / m.typical, images / max(m.seconds), images / min(m.seconds))
        for m in ordered
    ]
    return Bars(title, "images/s", values, ceiling)
