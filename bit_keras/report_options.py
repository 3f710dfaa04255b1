"""Options of `bit-keras report`, the same for Python and for the command line."""

from __future__ import annotations

from dataclasses import dataclass

from bit_keras.options import option, required


@dataclass(frozen=True)
class ReportOptions:
    """Draws a run's curves and says in words what they show; also while the run goes on.

    Leaves health.png and report.md: does the loss still improve although it looks flat, do the
    weights grow without bound, is the budget the recipe's, and more.
    """

    run: str = required("The run folder of a `bit-keras pretrain` or `finetune`.")
    output: str = option("", "Folder for report.md and health.png; default: the run's.")
