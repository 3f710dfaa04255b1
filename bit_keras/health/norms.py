"""Weight decay and the norm of the standardised kernels, which sets the effective learning rate.

A standardised kernel w gives the same output at any scale. So its gradient is orthogonal to it and
shrinks with 1/‖w‖, an update turns it by an angle that goes with η/‖w‖² (η: learning rate), and
every update lengthens it; only weight decay λ shortens it. With SGD at momentum m, decay within the
gradient, and gradients that would keep their size at ‖w‖ = 1, ‖w‖⁴ grows by a constant a step and
shrinks by the share 2/T of itself, with the decay time T = (1 − m) / (2 η λ) steps: it comes to
rest within a few T, and without decay it grows in a straight line, without bound.

Sources: paper, section 4.2; van Laarhoven 2017, arXiv 1706.05350; Wan et al. 2020, arXiv
2006.08419.
"""

from __future__ import annotations

import math

import numpy as np

from bit_keras.health.curves import Curves, Plateau
from bit_keras.health.finding import Finding
from bit_keras.health.plan import Plan
from bit_keras.schedules import warmup_staircase

SETTLED = 0.01  # growth of the norm over a quarter of a plateau that counts as none
ENOUGH = 1.0  # decay times in a plateau, from which on its norm can be judged
STEADY_RATIO = 0.8  # of the growth in the last two quarters, where the decay is not known
MUCH = 2.0  # growth of the norm within a plateau that is to be told whatever decay may do later
_LEAST = 40  # steps of a plateau that say anything


def decay_times(rates: np.ndarray, plan: Plan) -> float:
    """How many decay times T updates with these learning rates make; a norm rests after a few.

    Args:
        rates: learning rate of each update.
        plan: with momentum and weight decay.

    Example:
        >>> plan = Plan(momentum=0.9, weight_decay=1e-4)
        >>> round(decay_times(np.full(9_384, 0.48), plan), 1)  # BiT-S until its first drop
        9.0
    """
    share = 2 * (plan.weight_decay or 0.0) / (1 - (plan.momentum or 0.0))
    return share * float(np.nansum(rates))


def planned_decay_times(plan: Plan) -> float | None:
    """The decay times of the whole schedule; None when it is not known."""
    if not plan.steps or not plan.learning_rate:
        return None
    rates = warmup_staircase(
        np.arange(plan.steps),
        base=plan.learning_rate,
        warmup_steps=plan.warmup_steps or 0,
        boundaries=plan.boundaries,
    )
    return decay_times(rates, plan)


def weight_decay(plan: Plan) -> Finding | None:
    """Is there as much weight decay as in the recipe, and has it time to act?

    None for a training that has none by its rule, as fine-tuning.
    """
    if plan.weight_decay is None or plan.kind == "fine-tuning":
        return None
    decay, paper = plan.weight_decay, plan.paper.weight_decay if plan.paper else None
    times = planned_decay_times(plan)
    numbers = {"weight_decay": decay}
    if paper is not None:
        numbers["recipe"] = paper
    lower = (
        "It looks like faster convergence at first, but the kernels grow, the effective learning "
        "rate falls with them, and the model ends worse"
    )
    if decay == 0:
        text = f"There is no weight decay, so nothing bounds the norm of the kernels. {lower}."
        told = f" Pass --weight_decay={paper:g}." if paper else ""
        return Finding("weight decay", "warning", text + told, numbers)
    if paper is not None and decay < 0.99 * paper:
        text = f"Weight decay {decay:g} is below the recipe's {paper:g}. {lower}."
        return Finding("weight decay", "warning", text, numbers)
    if times is None:
        return None
    numbers |= {"decay_times": times}
    whose = "the recipe's" if decay == paper else f"the recipe has {paper:g}" if paper else "set"
    time = plan.decay_time(plan.learning_rate or 0.0) or math.inf
    text = (
        f"Weight decay {decay:g} ({whose}) shrinks the kernels' squared norm by e in {time:,.0f} "
        f"steps at the full learning rate, and the whole schedule makes {times:.2g} times that"
    )
    if times < ENOUGH:
        text += (
            ": too short for decay to matter much. The norm is what the kernels' start and the "
            "gradients make it."
        )
        return Finding("weight decay", "note", text, numbers)
    return Finding("weight decay", "good", f"{text}: it has time to act.", numbers)


def busiest(curves: Curves) -> Plateau | None:
    """The plateau in which the weights move most, by steps × learning rate.

    After a drop of the rate the norm hardly moves, which proves no equilibrium.
    """
    known = np.isfinite(curves["weight_norm"])
    plateaus = [p for p in curves.plateaus() if known[p.slice].sum() >= _LEAST]
    return max(plateaus, key=lambda p: len(p) * p.learning_rate, default=None)


def _quarters(norm: np.ndarray) -> np.ndarray:
    """A norm at the start and after each quarter of a series, [5]; each a mean of some steps."""
    width = max(1, len(norm) // 40)
    begins = np.linspace(0, len(norm) - width, 5).astype(int)
    return np.array([norm[begin : begin + width].mean() for begin in begins])


def weight_norm(curves: Curves, plan: Plan) -> Finding | None:
    """Is the norm of the kernels bounded, by theory and by the record? (paper, section 4.2)

    None without a plateau of recorded norms.
    """
    plateau = busiest(curves)
    if plateau is None:
        return None
    norm = curves["weight_norm"][plateau.slice]
    at = _quarters(norm[np.isfinite(norm)])
    third, last = np.diff(at**4)[2:]  # growth of ‖w‖⁴, which is even without decay
    growth = float(at[4] / at[3] - 1)
    time = plan.decay_time(plateau.learning_rate)
    times = len(plateau) / time if time else 0.0
    numbers = {
        "begin": float(curves["step"][plateau.start]),
        "end_step": float(curves["step"][plateau.stop - 1]),
        "learning_rate": plateau.learning_rate,
        "start": float(at[0]), "end": float(at[4]), "growth": growth,
        "growth_before": float(at[3] / at[2] - 1),
        "steadiness": float(last / third) if third > 0 else 0.0,
        "decay_times": times, "effective_rate_ratio": float((at[0] / at[4]) ** 2),
    }  # fmt: skip
    if time:
        rest = float((at[3] ** 4 + at[4] ** 4) / 2 + time / 2 * last / (len(plateau) / 4))
        numbers |= {"decay_time": time, "equilibrium": max(rest, 0.0) ** 0.25}
    return _judged(numbers, plan)


def _judged(numbers: dict[str, float], plan: Plan) -> Finding:
    begin, end = numbers["begin"], numbers["end_step"]
    start, now, growth = numbers["start"], numbers["end"], numbers["growth"]
    times, known = numbers["decay_times"], plan.weight_decay is not None
    where = f"at learning rate {numbers['learning_rate']:g} (steps {begin:,.0f} to {end:,.0f})"
    went = (
        f"it went from {start:.4g} to {now:.4g} {where}, "
        f"{100 * numbers['growth_before']:+.2g} % in the third quarter of them and "
        f"{100 * growth:+.2g} % in the last"
    )
    effect = (
        f"the effective learning rate changed by the factor {numbers['effective_rate_ratio']:.2g}"
    )
    # With decay the growth of the quarters goes with exp(−times / 2), without it is even: which?
    halfway = min(0.9, (1 + math.exp(-times / 2)) / 2) if plan.weight_decay else STEADY_RATIO
    bounded = numbers["steadiness"] < halfway

    def finding(severity: str, text: str) -> Finding:
        return Finding("weight norm", severity, text, numbers)  # type: ignore[arg-type]

    early = known and bool(plan.weight_decay) and times < ENOUGH
    if early and (bounded or now < MUCH * start):
        return finding(
            "note",
            f"The norm of the kernels is not yet bounded by decay, which acts within "
            f"{numbers['decay_time']:,.0f} steps: {went}; {effect}.",
        )
    if growth < -SETTLED:
        return finding("good", f"The norm of the kernels shrinks: {went}; {effect}.")
    if growth < SETTLED and not early:
        return finding(
            "good",
            f"The norm of the kernels is at rest: {went}. The effective learning rate keeps.",
        )
    if bounded and not early:
        rest = f"; it would rest at about {numbers['equilibrium']:.4g}" if plan.weight_decay else ""
        return finding("good", f"The norm of the kernels approaches its equilibrium: {went}{rest}.")
    return finding(
        "warning",
        f"The norm of the kernels grows without bound: {went}, with no sign of an equilibrium; "
        f"{effect} and goes on falling. {_remedy(plan)}",
    )


def _remedy(plan: Plan) -> str:
    paper = plan.paper.weight_decay if plan.paper else None
    if paper and (plan.weight_decay or 0.0) < paper:
        return f"Train with the recipe's weight decay, {paper:g}."
    return "More weight decay bounds it; see that it reaches the kernels."
