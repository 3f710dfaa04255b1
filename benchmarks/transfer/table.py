"""Writes the transfer table from its results: `python -m benchmarks.transfer.table --work DIR`.

The tables go to docs/transfer.md, between its markers, the picture to docs/images/transfer.png, and
a short table for the README to the terminal.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.transfer.picture import draw
from benchmarks.transfer.results import Results
from benchmarks.transfer.targets import STARTS, TARGETS
from bit_keras.files import replacing

DOCS = Path(__file__).parents[2] / "docs"
BEGIN, END = "<!-- transfer tables: begin -->", "<!-- transfer tables: end -->"
COMPACT = ("probe", "pretrained", "scratch", "scratch_4x")


@dataclass(frozen=True)
class Row:
    """Accuracies on one target.

    Attributes:
        target: a key of `TARGETS`.
        top1: start → seed → accuracy, 0…1, of what has been measured.
        tested: test images of one seed.
    """

    target: str
    top1: dict[str, dict[int, float]]
    tested: int

    @property
    def seeds(self) -> int:
        """Number of seeds of the start that has most."""
        return max(map(len, self.top1.values()))

    def values(self, start: str) -> np.ndarray:
        """A start's accuracies, float [seeds], perhaps none."""
        return np.array([self.top1[start][seed] for seed in sorted(self.top1.get(start, {}))])

    def gain(self, other: str) -> np.ndarray:
        """Pre-trained minus another start, for each seed that both have."""
        mine, others = (self.top1.get(start, {}) for start in ("pretrained", other))
        return np.array([mine[seed] - others[seed] for seed in sorted({*mine} & {*others})])


def rows(records: Iterable[dict[str, Any]]) -> list[Row]:
    """The table's rows, a target each, in the order of `TARGETS`.

    Raises:
        ValueError: for results of several pre-trained weights; for none.
    """
    records = list(records)
    digests = sorted({r["weights"] for r in records} - {None})
    if len(digests) > 1:
        raise ValueError(
            "The results are of several pre-trained weights: "
            f"{', '.join(digest[:12] for digest in digests)}. Measure each in a folder of its own."
        )
    if not digests:
        raise ValueError("There are no results with pre-trained weights yet.")
    found: dict[str, Row] = {}
    for record in records:
        row = found.setdefault(record["target"], Row(record["target"], {}, record["tested"]))
        row.top1.setdefault(record["start"], {})[record["seed"]] = record["top1"]
    return [found[target] for target in TARGETS if target in found]


def _fewer(count: int, row: Row) -> str:
    """A remark where a cell has fewer seeds than its row."""
    return "" if count == row.seeds else f", {count} seed{'s' * (count > 1)}"


def _markdown(header: Sequence[str], cells: Iterable[Sequence[str]], left: int = 1) -> str:
    """A table in Markdown; all columns but the first `left` are aligned to the right."""
    rule = ["---"] * left + ["---:"] * (len(header) - left)
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *cells))


def accuracy_table(table: Sequence[Row]) -> str:
    """Median and range of every start."""

    def cell(row: Row, start: str) -> str:
        values = 100 * row.values(start)
        if not len(values):
            return "–"
        told = f"{np.median(values):.1f} ({values.min():.1f}–{values.max():.1f})"
        return told + _fewer(len(values), row)

    header = ["target", "test images", "seeds", *STARTS.values()]
    cells = [
        [
            TARGETS[row.target].title,
            f"{row.tested:,}",
            str(row.seeds),
            *(cell(row, start) for start in STARTS),
        ]
        for row in table
    ]
    return _markdown(header, cells)


def gain_table(table: Sequence[Row]) -> str:
    """Pre-trained minus the other starts, seed by seed, in percentage points."""

    def cell(row: Row, other: str) -> str:
        gain = 100 * row.gain(other)
        if not len(gain):
            return "–"
        wins = int((gain > 0).sum())
        return (
            f"{np.median(gain):+.1f} ({gain.min():+.1f} to {gain.max():+.1f}), {wins}/{len(gain)}"
        )

    others = {start: STARTS[start] for start in ("scratch", "scratch_4x")}
    cells = [[TARGETS[row.target].title, *(cell(row, other) for other in others)] for row in table]
    return _markdown(["target", *(f"against {title}" for title in others.values())], cells)


def compact_table(table: Sequence[Row]) -> str:
    """For the README: medians, the best of a row in bold, among those with all its seeds."""

    def line(row: Row) -> list[str]:
        values = {start: row.values(start) for start in COMPACT}
        medians = {start: np.median(v) for start, v in values.items() if len(v)}
        best = max(m for start, m in medians.items() if len(values[start]) == row.seeds)
        shown = []
        for start in COMPACT:
            if start not in medians:
                shown.append("–")
                continue
            number = f"{100 * medians[start]:.1f}"
            fewer = _fewer(len(values[start]), row)
            bold = medians[start] == best and not fewer
            shown.append(f"**{number}**" if bold else number + fewer)
        return [TARGETS[row.target].title, *shown]

    header = ["top-1, %, median", *(STARTS[start] for start in COMPACT)]
    return _markdown(header, [line(row) for row in table])


def insert(text: str, tables: str) -> str:
    """A document with what stands between the markers replaced.

    Raises:
        ValueError: when there is not one of each marker.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"The document must have one line {BEGIN} and one line {END}.")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{tables}\n\n{END}{rest.split(END)[1]}"


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.transfer.table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--work", type=Path, required=True, help="the folder of the measurement")
    parser.add_argument("--docs", type=Path, default=DOCS, help="the folder of transfer.md")
    options = parser.parse_args(arguments)
    records = Results(options.work).read()
    table = rows(records)
    digest = next(r["weights"] for r in records if r["weights"])
    hours = sum(r["cpu_seconds"] for r in records) / 3600
    tables = "\n\n".join(
        (
            "Top-1 accuracy in per cent: the median over the seeds, and the lowest and highest.",
            accuracy_table(table),
            "Pre-trained minus from scratch, seed by seed, in percentage points: the median, the "
            "range, and in how many seeds pre-training won.",
            gain_table(table),
            f"Weights with SHA-256 `{digest[:12]}…`; {hours:.1f} hours of one CPU core.",
        )
    )
    page = options.docs / "transfer.md"
    with replacing(page) as partial:
        partial.write_text(insert(page.read_text("utf-8"), tables), "utf-8")
    draw(table, options.docs / "images" / "transfer.png")
    print(compact_table(table))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
