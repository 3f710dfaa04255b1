"""Bars and curves of the benchmark as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.speed.results import Bars, Curves
from bit_keras.drawing import BLUE, INK, MUTED, ORANGE, PLAIN_TEXT, plain, save

OURS = "bit_keras"  # how the labels of ours start
PALE = "#b8c2cc"  # the peers' bars
LINES = (BLUE, ORANGE, "#0f766e", "#9333ea", MUTED)
DASHES: tuple[Any, ...] = ("solid", (0, (5, 2)), (0, (1, 1.5)))
FEW_POINTS = 20  # up to which each has a marker
WIDTH = 8.0  # inches


def number(value: float) -> str:
    """A number as labels show it, with three significant digits.

    Example:
        >>> number(1234.5), number(17.83), number(0.456)
        ('1,234', '17.8', '0.456')
    """
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


@rc_context(PLAIN_TEXT)
def draw_bars(bars: Bars, path: Path) -> None:
    """Draws horizontal bars with their ranges, ours in colour, and the ceiling as a line.

    Args:
        bars: what to draw, from the top.
        path: the PNG file to write.
    """
    count = len(bars.values)
    figure = Figure(figsize=(WIDTH, 1.25 + 0.36 * count))
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.08)
    axes = figure.subplots()
    compared = any(label.startswith(OURS) for label, *_ in bars.values)
    most = max([most for *_, most in bars.values] + ([bars.line[1]] if bars.line else []))
    for place, (label, value, least, highest) in enumerate(bars.values):
        ours = label.startswith(OURS) or not compared
        axes.barh(place, value, height=0.66, color=BLUE if ours else PALE)
        if highest > least:
            axes.errorbar(value, place, xerr=[[value - least], [highest - value]], color=INK,
                          linewidth=1.1, capsize=2.5)  # fmt: skip
        bold = "bold" if ours and compared else "normal"
        text = axes.annotate(number(value), (max(value, highest), place), (6, 0), va="center",
                      textcoords="offset points", color=INK, fontsize=9, fontweight=bold,
                      zorder=4)  # fmt: skip
        text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.8})
    _labels(axes, bars, compared)
    axes.set_xlim(0, most * 1.1)
    axes.set_title(bars.title, loc="left", fontsize=11, color=INK, pad=20 if bars.line else 8)
    if bars.line:
        _ceiling(axes, *bars.line, most)
    save(figure, path)


def _labels(axes: Any, bars: Bars, compared: bool) -> None:
    labels = [label for label, *_ in bars.values]
    axes.set_yticks(range(len(labels)), labels, fontsize=9.5)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlabel(bars.unit, color=INK)
    plain(axes)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set_axisbelow(True)
    for tick in axes.get_yticklabels():
        if compared and tick.get_text().startswith(OURS):
            tick.set(color=BLUE, fontweight="bold")


def _ceiling(axes: Any, name: str, value: float, most: float) -> None:
    axes.axvline(value, color=ORANGE, linewidth=1.3, linestyle=(0, (4, 2)), zorder=3)
    left = value > most / 2
    axes.annotate(
        f"{name}: {number(value)}", (value, 1), (2 if not left else -2, 3), fontsize=8.5,
        xycoords=("data", "axes fraction"), textcoords="offset points", color=ORANGE,
        ha="right" if left else "left", va="bottom",
    )  # fmt: skip


@rc_context(PLAIN_TEXT)
def draw_curves(curves: Curves, path: Path) -> None:
    """Draws lines, with a marker at each point where there are few.

    Args:
        curves: what to draw.
        path: the PNG file to write.
    """
    figure = Figure(figsize=(WIDTH, 4.2))
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.08)
    axes = figure.subplots()
    for index, (label, xs, ys) in enumerate(curves.series):
        axes.plot(
            xs, ys, label=label, color=LINES[index % len(LINES)], linewidth=1.7,
            linestyle=DASHES[index // len(LINES) % len(DASHES)],
            marker="o" if len(xs) <= FEW_POINTS else None, markersize=4,
        )  # fmt: skip
    plain(axes)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    if all(y >= 0 for _, _, ys in curves.series for y in ys):
        axes.set_ylim(bottom=0)  # or noise would look like a trend
    places = sorted({x for _, xs, _ in curves.series for x in xs})
    if len(places) <= FEW_POINTS:
        axes.set_xticks(places)
    axes.set_xlabel(curves.x, color=INK)
    axes.set_ylabel(curves.y, color=INK)
    axes.set_title(curves.title, loc="left", fontsize=11, color=INK, pad=8)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    save(figure, path)
