"""Patience: whether the loss, and the accuracy, still move beneath the noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bit_keras.health.curves import Curves, Plateau
from bit_keras.health.finding import Finding, Severity
from bit_keras.health.plan import Plan
from bit_keras.health.trend import CRITICAL, Trend, trend
from bit_keras.health.windows import LossWindows

SHORT_BLOCKS, LONG_BLOCKS = 10, 20
NEGLIGIBLE = 0.001  # share of the loss; a fall of less over the long stretch counts as none
HIDDEN = 0.02  # share of the loss; noise that could hide more than this forbids a verdict
_LEAST_EVALUATIONS = 6


def stretches(plateau: Plateau, windows: LossWindows) -> tuple[slice, slice] | None:
    """The ends of a plateau that are looked at: as the eye does, and with patience.

    The eye sees the last long window, in which the short one has room for ten values. Patience
    takes the plateau's last half (up to three quarters of a short one, to have something to look
    at), so that what fell just after the rate dropped, and no longer does, is not counted.

    Returns:
        Two slices of the arrays; None when the plateau is shorter than two long windows.
    """
    length, stop = len(plateau), plateau.stop
    if length < 2 * windows.long:
        return None
    patient = max(length // 2, min(3 * windows.long, 3 * length // 4))
    return slice(stop - windows.long, stop), slice(stop - patient, stop)


def long_trend(steps: np.ndarray, loss: np.ndarray) -> tuple[Trend, bool]:
    """The line through a stretch, and whether it falls to the very end.

    A curve that fell and then stopped has a falling line too; so the last third must lie below the
    one before by one and a half standard errors.
    """
    line = trend(steps, loss, LONG_BLOCKS)
    third = len(loss) // 3
    before, last = loss[-2 * third : -third], loss[-third:]
    error = np.sqrt((before.var() + last.var()) / third)
    return line, bool(line.falls and before.mean() - last.mean() > 1.5 * error)


def _pm(line: Trend) -> str:
    """A line's change over its stretch and the error, to the error's second digit."""
    error = line.change_error
    digits = 3 if error <= 0 else max(0, min(8, 1 - int(np.floor(np.log10(error)))))
    return f"{line.change:+.{digits}f} ± {error:.{digits}f}"


@dataclass(frozen=True)
class LossTrend:
    """How the loss goes at the end of a plateau.

    Attributes:
        state: "falls" (on both stretches), "hidden" (flat to the eye, falls with patience),
            "flat", "rises", or "noisy" (the noise could hide a change that matters).
        short: the line through what the eye sees.
        long: the line through the stretch that takes patience.
    """

    state: str
    short: Trend
    long: Trend

    @property
    def margin(self) -> float:
        """Change of the loss over the long stretch that the noise could hide."""
        return CRITICAL[LONG_BLOCKS] * self.long.change_error


def loss_trend(curves: Curves, plateau: Plateau, windows: LossWindows) -> LossTrend | None:
    """How the loss goes at the end of a plateau; None when it is too short to tell."""
    found = stretches(plateau, windows)
    if found is None:
        return None
    steps, loss = curves["step"], curves["loss"]
    short = trend(steps[found[0]], loss[found[0]], SHORT_BLOCKS)
    long, falls = long_trend(steps[found[1]], loss[found[1]])
    matters = abs(long.change) > NEGLIGIBLE * abs(long.level)
    state = "flat"
    if falls and matters:
        state = "falls" if short.falls else "hidden"
    elif long.rises and matters:
        state = "rises"
    elif CRITICAL[LONG_BLOCKS] * long.change_error > HIDDEN * abs(long.level):
        state = "noisy"
    return LossTrend(state, short, long)


def _constant_for(curves: Curves) -> int:
    """Steps since the learning rate last changed."""
    changed = np.flatnonzero(curves["learning_rate"] != curves["learning_rate"][-1])
    return len(curves) - (int(changed[-1]) + 1 if len(changed) else 0)


def _next_event(plan: Plan, step: int) -> tuple[str, int]:
    """What the schedule does next, in words, and the steps until then; 0 after the end."""
    for boundary in plan.boundaries:
        if boundary > step:
            return f"the learning rate drops at step {boundary:,}", boundary - step
    left = max(0, plan.steps - step) if plan.steps else 0
    return (f"the run ends at step {plan.steps:,}", left) if left else ("", 0)


def patience(curves: Curves, plan: Plan) -> Finding:
    """Does the loss still fall, although it may look flat? (paper, section 4.2, Figure 4)

    Args:
        curves: at least one step.
        plan: of the run.
    """
    step = int(curves["step"][-1])
    windows = LossWindows.for_run(plan.steps or step)
    last = curves.plateaus()[-1:]
    current = last[0] if last and last[0].stop == len(curves) else None
    found = loss_trend(curves, current, windows) if current else None
    if found is None:
        length, needed = _constant_for(curves), 2 * windows.long
        so_far = (
            f"{length:,} steps at this learning rate"
            if length > 1
            else "the learning rate still changes"
        )
        return Finding(
            "patience", "note",
            f"Too early to judge the loss: {so_far}, and it takes {needed:,} (two long windows).",
            {"steps": length, "needed": needed},
        )  # fmt: skip
    short, long = found.short, found.long
    text, severity = _in_words(found, *_next_event(plan, step))
    return Finding(
        "patience", severity, text,
        {
            "short_change": short.change, "short_error": short.change_error,
            "short_steps": short.span, "long_change": long.change, "long_error": long.change_error,
            "long_steps": long.span, "level": long.level, "hidden": found.margin,
            "steps_left": _next_event(plan, step)[1],
        },
    )  # fmt: skip


def _in_words(found: LossTrend, event: str, left: int) -> tuple[str, Severity]:
    short, long = found.short, found.long
    scale = 100 / abs(long.level) if long.level else 0.0
    over_short = f"over the last {short.span:,.0f} steps it changed by {_pm(short)}"
    over_long = (
        f"over the last {long.span:,.0f} steps at this learning rate the loss changed by "
        f"{_pm(long)} ({scale * abs(long.change):.2g} % of it)"
    )
    then = f"Next, {event}." if left else "The run is over."
    gain = "The run is over; a longer schedule would lower it further."
    if left:
        worth = f"{-long.slope * left:.2g}"
        gain = f"At this pace the {left:,} steps until {event} are worth up to {worth}."
    texts: dict[str, tuple[str, Severity]] = {
        "falls": (f"The loss still falls: {over_long}. {gain}", "good"),
        "hidden": (
            f"The loss looks flat but still improves: {over_short}, which is noise; yet "
            f"{over_long}. {gain}" + " Be patient." * bool(left), "note",
        ),
        "flat": (
            f"The loss is flat, on the long window too: {over_long}. "
            + (f"Waiting gains little until {event}." if left else
               "It has converged at the last learning rate."), "note",
        ),
        "rises": (
            f"The loss rises: {over_long}. Check the data, or lower the learning rate.", "warning",
        ),
        "noisy": (
            f"The loss is too noisy for a verdict: {over_long}, and the noise could hide "
            f"{found.margin:.2g} ({scale * found.margin:.2g} %). {then}", "note",
        ),
    }  # fmt: skip
    return texts[found.state]


def evaluation(curves: Curves) -> Finding | None:
    """Is the last evaluation the best one, within the noise? None with too few of them."""
    scores = [r for r in curves.evaluations if np.isfinite(r.get("top1", np.nan))]
    if len(scores) < _LEAST_EVALUATIONS:
        return None
    top1 = np.array([r["top1"] for r in scores])
    steps = np.array([r["step"] for r in scores])
    means = np.convolve(top1, np.ones(3) / 3, "valid")  # of three, at the middle one's step
    best = int(means.argmax())
    noise = 1.4826 * float(np.median(np.abs(np.diff(top1)))) / np.sqrt(2)
    fall = float(means[best] - means[-1])
    numbers = {
        "best": float(means[best]), "best_step": float(steps[best + 1]), "last": float(means[-1]),
        "noise": noise,
    }  # fmt: skip
    # Against the best of many, which is high by chance as well.
    if fall > max(0.005, 5 * noise * np.sqrt(2 / 3)):
        return Finding(
            "evaluation", "warning",
            f"Accuracy has passed its best: top-1 {100 * means[best]:.1f} % around step "
            f"{steps[best + 1]:,.0f}, {100 * means[-1]:.1f} % now (means of three evaluations). If "
            "the training loss falls meanwhile, the model learns the training images by heart: "
            "take more data or a smaller model.", numbers,
        )  # fmt: skip
    return Finding(
        "evaluation", "good",
        f"Accuracy has not passed its best: top-1 {100 * top1[-1]:.1f} % at step "
        f"{steps[-1]:,.0f}, at most {100 * top1.max():.1f} %.", numbers,
    )  # fmt: skip
