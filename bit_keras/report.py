"""Pictures and texts made from a run's files; reads files only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from bit_keras.drawing import BLUE, INK, MUTED, ORANGE, PLAIN_TEXT, logarithmic, plain, save
from bit_keras.health.windows import moving_mean
from bit_keras.runs import RunFolder

MOST_LABELLED = 40  # classes; beyond, a confusion matrix has no room for names and numbers


@rc_context(PLAIN_TEXT)
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
    top.plot(steps, loss, color=BLUE, alpha=0.25, linewidth=0.8)
    top.plot(steps, moving_mean(loss, window), color=BLUE)
    top.set_ylabel(
        f"training loss, mean of {window}" if window > 1 else "training loss", color=BLUE
    )
    top.set_ylim(bottom=0)
    plain(top)
    if scores:
        right = top.twinx()
        xs, ys = [r["step"] for r in scores], [100 * r["top1"] for r in scores]
        right.plot(xs, ys, color=ORANGE, marker="o", clip_on=False)
        right.annotate(
            f"{ys[-1]:.1f} %", (xs[-1], ys[-1]), (-6, 8), textcoords="offset points",
            ha="right", color=ORANGE,
        )  # fmt: skip
        right.set_ylabel("top-1 accuracy, %", color=ORANGE)
        right.set_ylim(0, 100)
        right.spines["top"].set_visible(False)
    bottom.plot(steps, [r["learning_rate"] for r in losses], color=MUTED, drawstyle="steps-mid")
    logarithmic(bottom)
    bottom.set_ylabel("learning rate")
    bottom.set_xlabel("step")
    plain(bottom)
    figure.suptitle(title or run.path.name, color=INK)
    save(figure, run.curve)
    return run.curve


@rc_context(PLAIN_TEXT)
def plot_transfer(pretrained: RunFolder, scratch: RunFolder, path: Path, title: str = "") -> Path:
    """Draws the accuracies of a pre-trained and of an untrained start over the steps.

    Raises:
        ValueError: when a run has no evaluation yet.
    """
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for run, name, color in ((pretrained, "pre-trained", BLUE), (scratch, "from scratch", MUTED)):
        scores = [(r["step"], 100 * r["top1"]) for r in run.read_metrics() if "top1" in r]
        if not scores:
            raise ValueError(f"{run.metrics} has no evaluation: nothing to compare yet.")
        steps, shares = zip(*scores, strict=True)
        axes.plot(steps, shares, color=color, marker="o", clip_on=False)
        axes.annotate(
            f"{name} {shares[-1]:.1f} %", (steps[-1], shares[-1]), (0, 9),
            textcoords="offset points", ha="right", color=color,
        )  # fmt: skip
    axes.set_ylim(0, 100)
    axes.set_xlim(left=0)
    axes.set_ylabel("top-1 accuracy on held-out images, %")
    axes.set_xlabel("step")
    plain(axes)
    figure.suptitle(title or pretrained.path.name, color=INK)
    save(figure, path)
    return path


@rc_context(PLAIN_TEXT)
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
                color="white" if share[row, column] > 0.55 else INK,
            )  # fmt: skip
    axes.set_title(title or "Confusion matrix", color=INK)
    save(figure, path)
    return path
