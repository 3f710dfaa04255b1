"""What a check of a run found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["good", "note", "warning"]


@dataclass(frozen=True)
class Finding:
    """One thing to know about a run.

    Attributes:
        kind: what was looked at: "patience", "evaluation", "budget", "warm-up", "scale",
            "weight decay", "weight norm", "gradient norm", "spikes", "overflow" or "throughput".
        severity: "good", "note" (to know), or "warning" (to act on).
        text: a sentence or more, with the numbers.
        numbers: the same numbers by name, for programs; `docs/health.md` says what each is.
    """

    kind: str
    severity: Severity
    text: str
    numbers: dict[str, float] = field(default_factory=dict)
