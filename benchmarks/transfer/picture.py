"""The transfer table as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from benchmarks.transfer.targets import STARTS, TARGETS
from bit_keras.drawing import BLUE, INK, MUTED, ORANGE, PLAIN_TEXT, plain, save

# Marker, colour, colour inside and place beside the row's line of each start.
STYLES: dict[str, tuple[str, str, str, float]] = {
    "probe_random": ("D", MUTED, "white", -0.26),
    "probe": ("D", BLUE, "white", -0.13),
    "pretrained": ("o", BLUE, BLUE, 0.0),
    "scratch": ("o", ORANGE, ORANGE, 0.13),
    "scratch_4x": ("s", ORANGE, "white", 0.26),
}


@rc_context(PLAIN_TEXT)
def draw(table: Sequence[Any], path: Path) -> None:
    """Draws median and range of each start on each target.

    Args:
        table: rows as `table.rows` makes them.
        path: the PNG file to write.
    """
    figure = Figure(figsize=(8, 1.4 + 0.62 * len(table)), layout="constrained")
    axes = figure.subplots()
    for start, (marker, colour, inside, shift) in STYLES.items():
        measured = [
            (place + shift, 100 * row.values(start))
            for place, row in enumerate(table)
            if len(row.values(start))
        ]
        if not measured:
            continue
        heights = [height for height, _ in measured]
        lows, highs = [v.min() for _, v in measured], [v.max() for _, v in measured]
        axes.hlines(heights, lows, highs, color=colour, alpha=0.45, linewidth=1.6)
        axes.plot(
            [np.median(v) for _, v in measured], heights, marker, color=colour,
            markerfacecolor=inside, markersize=6, label=STARTS[start],
        )  # fmt: skip
    axes.set_yticks(range(len(table)), [TARGETS[row.target].title for row in table])
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.set_xlabel("top-1 accuracy, %: median and range of the seeds", color=INK)
    plain(axes)
    axes.grid(axis="y", visible=False)
    for place in range(1, len(table)):
        axes.axhline(place - 0.5, color=MUTED, alpha=0.2, linewidth=0.8)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    save(figure, path)
