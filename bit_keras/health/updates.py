"""The updates themselves: spikes of the loss, gradients, and images a second."""

from __future__ import annotations

import numpy as np

from bit_keras.health.curves import Curves
from bit_keras.health.finding import Finding
from bit_keras.health.plan import Plan
from bit_keras.health.trend import trend
from bit_keras.health.windows import LossWindows, moving_mean

SPIKE = 8.0  # deviations by which a step's loss exceeds the short window before it
SPIKE_SHARE = 0.25  # of that window's loss, which a spike must exceed it by as well
SLOWER = 0.75  # of the usual images a second; the same machine varies by less
STEEPER, FLATTER = 2.0, 0.1  # change of the gradient norm within a plateau that is to be told
_LEAST = 100  # steps, for any of these


def spike_places(loss: np.ndarray, short: int) -> np.ndarray:
    """Places of the steps at which spikes begin; steps within one short window are one spike.

    Args:
        loss: [N].
        short: steps in the short window.
    """
    before = np.concatenate([loss[:1], moving_mean(loss, short)[:-1]])
    above = loss - before
    high = np.zeros(len(loss), bool)
    chunks = max(1, min(20, len(loss) // 200))  # the noise is not the same all along
    for part in np.array_split(np.arange(len(loss)), chunks):
        median, high_end = np.percentile(above[part], [50, 98])
        deviation = max(
            1.4826 * np.median(np.abs(above[part] - median)),
            (high_end - median) / 2.05,  # of skewed noise
        )
        high[part] = above[part] > SPIKE * deviation
    high &= above > SPIKE_SHARE * np.abs(before)
    high[: 2 * short] = False  # the beginning of a training is steep anyway
    places = np.flatnonzero(high)
    return places[np.diff(places, prepend=-short - 1) > short]


def spikes(curves: Curves, plan: Plan) -> Finding | None:
    """Did the loss jump up? None for a short run, and good for none."""
    loss, steps = curves["loss"], curves["step"]
    if len(loss) < _LEAST:
        return None
    short = LossWindows.for_run(plan.steps or int(steps[-1])).short
    places = spike_places(loss, short)
    numbers = {"spikes": float(len(places))}
    if not len(places):
        return Finding("spikes", "good", "The loss has no spikes.", numbers)
    peaks = np.array([loss[place : place + short].max() for place in places])
    befores = moving_mean(loss, short)[places - 1]
    worst = int((peaks / befores).argmax())
    numbers |= {"worst_step": float(steps[places[worst]]), "worst_loss": float(peaks[worst])}
    which = ", ".join(f"{steps[place]:,.0f}" for place in places[:5]) + ", …" * (len(places) > 5)
    many = "1 spike" if len(places) == 1 else f"{len(places)} spikes"
    text = (
        f"The loss has {many}, at step {which}; the worst, at step {steps[places[worst]]:,.0f}, "
        f"rose from {befores[worst]:.3g} to {peaks[worst]:.3g}."
    )
    if len(places) > 2:
        text += " Look for bad images or labels, or lower the learning rate."
        return Finding("spikes", "warning", text, numbers)
    return Finding("spikes", "note", text, numbers)


def gradient_norm(curves: Curves) -> Finding | None:
    """Where does the gradient's norm go within the last plateau? None without one."""
    known = np.isfinite(curves["gradient_norm"])
    plateau = next((p for p in reversed(curves.plateaus()) if known[p.slice].sum() >= _LEAST), None)
    if plateau is None:
        return None
    kept = known[plateau.slice]
    steps = curves["step"][plateau.slice][kept]
    norm = curves["gradient_norm"][plateau.slice][kept]
    fifth = len(norm) // 5
    start, end = float(np.median(norm[:fifth])), float(np.median(norm[-fifth:]))
    line = trend(steps, norm, 10)
    numbers = {"start": start, "end": end, "steps": line.span}
    where = f"from {start:.3g} to {end:.3g} within {line.span:,.0f} steps at one learning rate"
    if end > STEEPER * start and line.rises:
        return Finding(
            "gradient norm", "warning",
            f"The gradient's norm grows: {where}. If the loss does not fall with it, the training "
            "becomes unstable: lower the learning rate.", numbers,
        )  # fmt: skip
    if end < FLATTER * start and line.falls:
        return Finding(
            "gradient norm", "note",
            f"The gradient's norm vanishes: {where}. There is little left to learn from.", numbers,
        )  # fmt: skip
    return Finding("gradient norm", "good", f"The gradient's norm keeps: {where}.", numbers)


def overflow(curves: Curves) -> Finding | None:
    """How many updates were left out because a float16 gradient overflowed? None for none."""
    if not curves.has("gradient_norm"):
        return None
    missing = np.isnan(curves["gradient_norm"]) & np.isfinite(curves["weight_norm"])
    if not missing.any():
        return None
    share = float(missing.mean())
    return Finding(
        "overflow", "warning" if share > 0.01 else "note",
        f"{missing.sum():,} of {len(curves):,} updates ({100 * share:.2g} %) have no finite "
        "gradient: they were left out. A few are how a loss scale is found; for many, train in "
        "bfloat16 or float32.", {"updates": float(missing.sum()), "share": share},
    )  # fmt: skip


def throughput(curves: Curves) -> Finding | None:
    """Has the training become slower? None for a short run."""
    speed = curves["images_per_second"]
    speed = speed[np.isfinite(speed)]
    if len(speed) < _LEAST:
        return None
    usual, now = float(np.median(speed)), float(np.median(speed[-len(speed) // 10 :]))
    numbers = {"usual": usual, "now": now}
    if now < SLOWER * usual:
        return Finding(
            "throughput", "warning",
            f"The training has become slower: {now:,.4g} images/s over the last tenth of the "
            f"steps, usually {usual:,.4g}. Look at the input, and at what else uses the machine.",
            numbers,
        )  # fmt: skip
    return Finding(
        "throughput", "good", f"The speed keeps: {now:,.4g} images/s, usually {usual:,.4g}.",
        numbers,
    )  # fmt: skip
