"""Pictures and texts made from a run's files; reads files only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from bit_keras.files import replacing
from bit_keras.runs import RunFolder

_INK, _MUTED, _BLUE, _ORANGE = "#1f2933", "#7b8794", "#2563eb", "#d9480f"
# Names of classes and files are text, also those with a $ in them.
_PLAIN_TEXT = {"text.parse_math": False}
MOST_LABELLED = 40  # classes; beyond, a confusion matrix has no room for names and numbers


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as partial:
        figure.savefig(partial, dpi=144, facecolor="white", format="png")


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_MUTED, labelcolor=_INK)
    axes.grid(alpha=0.25)


def _smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over the last `window` values at each place, over fewer at the beginning."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    begins = np.maximum(0, ends - window)
    return (sums[ends] - sums[begins]) / (ends - begins)


@rc_context(_PLAIN_TEXT)
def plot_learning_curve(run: RunFolder, title: str = "") -> Path:
    """Draws loss, accuracy and learning rate of a run over its steps as `learning_curve.png`.

    Raises:
        ValueError: when the run has no metrics yet.
    """
    records = list(run.read_metrics())
    losses = [r for r in records if "loss" in r]
    scores = [r for r in records if "top1" in r]
    if not losses:
        raise ValueError(f"{run.metrics} has no record of a step: nothing to draw yet.")
    steps = np.array([r["step"] for r in losses])
    loss = np.array([r["loss"] for r in losses])
    window = max(1, len(loss) // 40)

    figure = Figure(figsize=(8, 5.4), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    top.plot(steps, loss, color=_BLUE, alpha=0.25, linewidth=0.8)
    top.plot(steps, _smooth(loss, window), color=_BLUE)
    top.set_ylabel(
        f"training loss, mean of {window}" if window > 1 else "training loss", color=_BLUE
    )
    top.set_ylim(bottom=0)
    _plain(top)
    if scores:
        right = top.twinx()
        xs, ys = [r["step"] for r in scores], [100 * r["top1"] for r in scores]
        right.plot(xs, ys, color=_ORANGE, marker="o", clip_on=False)
        right.annotate(
            f"{ys[-1]:.1f} %", (xs[-1], ys[-1]), (-6, 8), textcoords="offset points",
            ha="right", color=_ORANGE,
        )  # fmt: skip
        right.set_ylabel("top-1 accuracy, %", color=_ORANGE)
        right.set_ylim(0, 100)
        right.spines["top"].set_visible(False)
    bottom.plot(steps, [r["learning_rate"] for r in losses], color=_MUTED, drawstyle="steps-mid")
    bottom.set_yscale("log")
    bottom.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))  # no formulas
    bottom.yaxis.set_minor_formatter(NullFormatter())
    bottom.set_ylabel("learning rate")
    bottom.set_xlabel("step")
    _plain(bottom)
    figure.suptitle(title or run.path.name, color=_INK)
    _save(figure, run.curve)
    return run.curve


@rc_context(_PLAIN_TEXT)
def plot_confusion(
    confusion: np.ndarray, class_names: Sequence[str], path: Path, title: str = ""
) -> Path:
    """Draws a confusion matrix; each row is shown as shares of its true class.

    Args:
        confusion: [K, K] counts, rows are true classes, columns predicted ones.
        class_names: K names.
        path: the PNG file to write.
        title: above the picture.
    """
    count = len(class_names)
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    labelled = count <= MOST_LABELLED
    side = min(14.0, 3.2 + 0.42 * count) if labelled else 9.0
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if labelled:
        turned = max(map(len, class_names)) > 3
        axes.set_xticks(range(count), class_names, rotation=60 if turned else 0)
        if turned:  # the end of a slanted name belongs under its column
            for tick in axes.get_xticklabels():
                tick.set(ha="right", rotation_mode="anchor")
        axes.set_yticks(range(count), class_names)
        for row, column in np.argwhere(confusion > 0):
            axes.text(
                column, row, str(confusion[row, column]), ha="center", va="center", fontsize=8,
                color="white" if share[row, column] > 0.55 else _INK,
            )  # fmt: skip
    axes.set_title(title or "Confusion matrix", color=_INK)
    _save(figure, path)
    return path
