"""All that can be said of a run, in order of what to read first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bit_keras.health import budget, loss, norms, updates
from bit_keras.health.curves import Curves
from bit_keras.health.finding import Finding
from bit_keras.health.plan import Plan


def verdicts(
    records: Iterable[Mapping[str, Any]] | Curves, config: Mapping[str, Any] | Plan
) -> list[Finding]:
    """Says in words what the records of a run show.

    Args:
        records: as in metrics.jsonl, one of a step at least; or the `Curves` of them.
        config: as in config.json; or the `Plan` in it.

    Returns:
        A finding for each thing that could be looked at with these records.

    Raises:
        ValueError: when there is no record of a step.

    Example:
        >>> records = [{"step": s, "loss": 2.0, "learning_rate": 0.03} for s in range(1, 41)]
        >>> verdicts(records, {})[0].text
        'Too early to judge the loss: 40 steps at this learning rate, and it takes 100 (two long \
windows).'
    """
    curves = records if isinstance(records, Curves) else Curves.from_records(records)
    plan = config if isinstance(config, Plan) else Plan.from_config(config)
    if not len(curves):
        raise ValueError("There is no record of a step: nothing to judge yet.")
    found = (
        loss.patience(curves, plan),
        loss.evaluation(curves),
        budget.budget(plan),
        budget.warm_up(plan),
        budget.scale(plan),
        norms.weight_decay(plan),
        norms.weight_norm(curves, plan),
        updates.gradient_norm(curves),
        updates.spikes(curves, plan),
        updates.overflow(curves),
        updates.throughput(curves),
    )
    return [finding for finding in found if finding]
