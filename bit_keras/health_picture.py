"""The picture of a run's health: health.png."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from bit_keras.drawing import BLUE, INK, MUTED, ORANGE, PLAIN_TEXT, logarithmic, plain, save
from bit_keras.health import Finding, LossWindows
from bit_keras.health.curves import Curves
from bit_keras.health.loss import loss_trend
from bit_keras.health.plan import Plan
from bit_keras.health.windows import moving_mean

_POINTS = 1_500  # of a curve; more than the picture's pixels are drawn as their range
_TOO_STEEP = 6.0  # ratio of the loss over a run, from which on its axis is logarithmic
_OF_SCORES = {"top1": ("top-1", ORANGE), "top5": ("top-5", "#f0a35e"),
              "label_precision": ("label precision", MUTED)}  # fmt: skip
_THOUSANDS = FuncFormatter(lambda value, _: f"{value:,.0f}")
_LEGEND: dict[str, Any] = {"fontsize": 9, "labelcolor": INK, "edgecolor": "none"}


def thinned(x: np.ndarray, y: np.ndarray, most: int = _POINTS) -> tuple[np.ndarray, ...]:
    """A curve of at most `most` points: x, mean, least and greatest y of each part.

    Args:
        x: [N] ascending.
        y: [N]; NaN where there is nothing, which is left out.
        most: parts.
    """
    known = np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) <= most:
        return x, y, y, y
    edges = np.linspace(0, len(x), most + 1).astype(int)
    starts, counts = edges[:-1], np.diff(edges)
    return (
        np.add.reduceat(x, starts) / counts,
        np.add.reduceat(y, starts) / counts,
        np.minimum.reduceat(y, starts),
        np.maximum.reduceat(y, starts),
    )


def _faint(axes: Any, x: np.ndarray, y: np.ndarray, color: str = BLUE) -> None:
    """Every step, faint: as a line, or as the range of many steps."""
    places, _, low, high = thinned(x, y)
    if len(places) < np.isfinite(y).sum():
        axes.fill_between(places, low, high, color=color, alpha=0.16, linewidth=0)
    else:
        axes.plot(places, high, color=color, alpha=0.22, linewidth=0.7)


def _line(axes: Any, x: np.ndarray, y: np.ndarray, color: str = BLUE, **style: Any) -> None:
    axes.plot(*thinned(x, y)[:2], color=color, **style)


def _title(axes: Any, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=10, color=INK)


def _schedule(axes: Any, plan: Plan, last: float, names: bool = False) -> None:
    """Marks the warm-up and the drops of the learning rate."""
    warm = min(plan.warmup_steps or 0, last)
    if warm:
        axes.axvspan(0, warm, color=MUTED, alpha=0.10, linewidth=0)
    top = {"xycoords": ("data", "axes fraction"), "va": "top", "fontsize": 8, "color": MUTED}
    if names and warm > 0.07 * last:
        axes.annotate("warm-up", (warm / 2, 0.985), ha="center", **top)
    for boundary in plan.boundaries:
        if boundary <= last:
            axes.axvline(boundary, color=MUTED, linewidth=0.9, linestyle=(0, (3, 3)))
            if names:
                axes.annotate(" ÷10", (boundary, 0.985), ha="left", **top)


def _robust_limits(values: np.ndarray, low: float, high: float) -> tuple[float, float]:
    bottom, top = np.nanpercentile(values, [low, high])
    margin = 0.08 * (top - bottom) or 0.1 * abs(top) or 1.0
    return float(bottom - margin), float(top + margin)


def _loss(axes: Any, curves: Curves, plan: Plan, windows: LossWindows) -> None:
    steps, loss = curves["step"], curves["loss"]
    short, long = moving_mean(loss, windows.short), moving_mean(loss, windows.long)
    _faint(axes, steps, loss)
    _line(axes, steps, short, linewidth=1.1, label=f"mean of {windows.short:,} steps")
    _line(axes, steps, long, INK, linewidth=1.7, label=f"mean of {windows.long:,} steps")
    settled = short[min(windows.short, len(short) - 1) :]
    low, high = _robust_limits(loss, 0.2, 99.8)
    if loss.min() > 0 and settled.max() > _TOO_STEEP * settled.min():
        logarithmic(axes)
        low = 0.9 * float(np.percentile(loss, 0.2))
    axes.set_ylim(low, max(high, float(settled.max())))
    _title(axes, "Training loss of every step, and its means")
    # Beneath the names of the drops.
    axes.legend(loc="upper right", bbox_to_anchor=(1, 0.95), **_LEGEND)


def _zoom(axes: Any, curves: Curves, windows: LossWindows) -> None:
    """The last long window, as the eye sees it, with the line that takes patience to see."""
    shown = slice(max(0, len(curves) - windows.long), None)
    steps, loss = curves["step"][shown], curves["loss"][shown]
    _faint(axes, steps, loss)
    _line(axes, steps, moving_mean(curves["loss"], windows.short)[shown], linewidth=1.3)
    axes.set_ylim(*_robust_limits(loss, 1, 99))
    _title(axes, f"The last {len(steps):,} steps of it")
    plateaus = curves.plateaus()
    found = loss_trend(curves, plateaus[-1], windows) if plateaus else None
    if found is None or plateaus[-1].stop < len(curves):
        return
    line = found.long
    middle = curves["step"][-1] - line.span / 2
    axes.plot(steps, line.level + line.slope * (steps - middle), color=ORANGE, linewidth=1.8)
    axes.annotate(
        f"trend of the last {line.span:,.0f} steps:\n{1000 * line.slope:+.2g} ± "
        f"{1000 * line.error:.1g} in 1,000",
        (0.98, 0.97), xycoords="axes fraction", ha="right", va="top", fontsize=9, color=ORANGE,
        bbox={"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 1},
    )  # fmt: skip


def _evaluation(axes: Any, curves: Curves) -> None:
    for name, (label, color) in _OF_SCORES.items():
        known = [r for r in curves.evaluations if name in r]
        if not known:
            continue
        x, y = [r["step"] for r in known], [100 * r[name] for r in known]
        label = f"{label} {y[-1]:.1f} %"
        axes.plot(x, y, color=color, marker="o", markersize=2.5, linewidth=1.3, label=label)
    axes.set_ylim(0, 100)
    axes.legend(loc="lower right", ncols=3, **_LEGEND)
    _title(axes, "Evaluation, %")


def _learning_rate(axes: Any, curves: Curves) -> None:
    _line(axes, curves["step"], curves.positive_learning_rate(), drawstyle="steps-mid")
    logarithmic(axes)
    _title(axes, "Learning rate")


def _effective(axes: Any, curves: Curves) -> None:
    _line(axes, curves["step"], curves.effective_learning_rate(), drawstyle="steps-mid")
    logarithmic(axes)
    _title(axes, "Effective learning rate, learning rate / ‖w‖²")


def _weight_norm(axes: Any, curves: Curves, findings: Sequence[Finding]) -> None:
    _line(axes, curves["step"], curves["weight_norm"])
    _title(axes, "Norm of the standardised kernels, ‖w‖")
    low, high = _robust_limits(curves["weight_norm"], 0, 100)
    numbers = next((f.numbers for f in findings if f.kind == "weight norm"), {})
    rest = numbers.get("equilibrium", 0.0)
    if numbers.get("decay_times", 0.0) >= 1 and 0.5 * low < rest < 1.5 * high:
        begin, end = numbers["begin"], numbers["end_step"]
        axes.hlines(rest, begin, end, color=ORANGE, linewidth=1.4, linestyle=(0, (5, 3)))
        axes.annotate(
            f"equilibrium {rest:.4g} at rate {numbers['learning_rate']:g}", (begin, rest), (0, -5),
            textcoords="offset points", va="top", fontsize=8.5, color=ORANGE,
        )  # fmt: skip
        low, high = min(low, rest - 0.25 * (high - low)), max(high, rest + 0.1 * (high - low))
    axes.set_ylim(low, high)


def _gradient_norm(axes: Any, curves: Curves, windows: LossWindows) -> None:
    known = np.isfinite(curves["gradient_norm"])
    steps, norm = curves["step"][known], curves["gradient_norm"][known]
    _faint(axes, steps, norm)
    _line(axes, steps, moving_mean(norm, windows.short))
    axes.set_ylim(*_robust_limits(norm, 0.2, 99.8))
    if norm.min() > 0 and np.percentile(norm, 99) > 10 * np.percentile(norm, 1):
        logarithmic(axes)
        axes.set_ylim(0.8 * np.percentile(norm, 0.2), 1.2 * np.percentile(norm, 99.8))
    _title(axes, "Norm of the gradient, and its short mean")


def _speed(axes: Any, curves: Curves) -> None:
    _line(axes, curves["step"], curves["images_per_second"], linewidth=0.9)
    axes.set_ylim(0, 1.15 * float(np.nanpercentile(curves["images_per_second"], 99.5)))
    axes.yaxis.set_major_formatter(_THOUSANDS)
    _title(axes, "Images a second")


def _panels(
    curves: Curves, windows: LossWindows, findings: Sequence[Finding]
) -> list[Callable[[Any], None]]:
    """What is drawn beneath the loss: all that the records have."""
    norms = curves.has("weight_norm")
    chosen: list[tuple[bool, Callable[[Any], None]]] = [
        (bool(curves.evaluations), lambda axes: _evaluation(axes, curves)),
        (curves.has("learning_rate"), lambda axes: _learning_rate(axes, curves)),
        (norms, lambda axes: _weight_norm(axes, curves, findings)),
        (norms and curves.has("learning_rate"), lambda axes: _effective(axes, curves)),
        (curves.has("gradient_norm"), lambda axes: _gradient_norm(axes, curves, windows)),
        (curves.has("images_per_second"), lambda axes: _speed(axes, curves)),
    ]
    return [draw for there, draw in chosen if there]


@rc_context(PLAIN_TEXT)
def plot_health(
    curves: Curves, plan: Plan, findings: Sequence[Finding], path: Path, title: str
) -> Path:
    """Draws all that a run recorded, with its schedule marked.

    Args:
        curves: at least one step.
        plan: of the run.
        findings: what `verdicts` said.
        path: the PNG file to write.
        title: above the picture.
    """
    last = float(curves["step"][-1])
    windows = LossWindows.for_run(plan.steps or int(last))
    panels = _panels(curves, windows, findings)
    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(12, 4 + 1.95 * rows))
    figure.set_layout_engine("constrained", hspace=0.04, wspace=0.03)
    grid = figure.add_gridspec(1 + rows, 6, height_ratios=[2.0] + [1.0] * rows)
    main = figure.add_subplot(grid[0, :4])
    _loss(main, curves, plan, windows)
    _zoom(zoom := figure.add_subplot(grid[0, 4:]), curves, windows)
    drawn = [main]
    for index, draw in enumerate(panels):
        row, column = divmod(index, 2)
        axes = figure.add_subplot(grid[1 + row, 3 * column : 3 * column + 3])
        draw(axes)
        drawn.append(axes)
    for axes in drawn:
        axes.set_xlim(0, last)
        _schedule(axes, plan, last, names=axes is main)
    for axes in [*drawn, zoom]:
        plain(axes)
        axes.xaxis.set_major_formatter(_THOUSANDS)
        axes.xaxis.set_major_locator(MaxNLocator(3 if axes is zoom else 6, integer=True))
    for axes in [*drawn[-2:], zoom]:
        axes.set_xlabel("step", color=INK)
    figure.suptitle(title, color=INK)
    save(figure, path)
    return path
