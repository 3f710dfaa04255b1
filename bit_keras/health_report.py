"""The report of a run's health: report.md and health.png, made from its files only."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bit_keras.files import replacing
from bit_keras.health import Finding, LossWindows, verdicts
from bit_keras.health.curves import Curves, Plateau, read_curves
from bit_keras.health.loss import loss_trend
from bit_keras.health.norms import planned_decay_times
from bit_keras.health.plan import Plan
from bit_keras.health_picture import plot_health
from bit_keras.report_options import ReportOptions
from bit_keras.runs import RunFolder
from bit_keras.version import __version__

MARKS = {"good": "✓", "note": "·", "warning": "!"}
_STATES = {
    "falls": "falls", "hidden": "looks flat, falls", "flat": "flat", "rises": "rises",
    "noisy": "too noisy to tell",
}  # fmt: skip


@dataclass(frozen=True)
class Report:
    """What was found in a run, and where it is written.

    Attributes:
        heading: model and data.
        status: how far the run is.
        findings: what `verdicts` said.
        document: report.md.
        picture: health.png.
    """

    heading: str
    status: str
    findings: list[Finding]
    document: Path
    picture: Path

    def text(self) -> str:
        """For a terminal: a paragraph for each finding, warnings first."""
        paragraphs = [
            textwrap.fill(
                f"{MARKS[f.severity]} {f.kind.capitalize()}. {f.text}", 98, subsequent_indent="  ",
                break_on_hyphens=False,
            )
            for f in _by_weight(self.findings)
        ]  # fmt: skip
        ends = f"Report: {self.document}\nPicture: {self.picture}"
        return "\n".join([f"{self.heading}: {self.status}", "", *paragraphs, "", ends])


def _by_weight(findings: Sequence[Finding]) -> list[Finding]:
    order = ("warning", "note", "good")
    return sorted(findings, key=lambda finding: order.index(finding.severity))


def write_report(run: RunFolder, folder: Path | None = None) -> Report:
    """Draws and judges a run, finished or not, and writes report.md and health.png.

    Args:
        run: a pre-training's or a fine-tuning's folder.
        folder: where to write; the run's own when left out.

    Raises:
        RunFolderError: when the folder holds no run.
        ValueError: when the run has no metrics yet.

    Example:
        >>> write_report(RunFolder("runs/xs")).findings[0].kind  # doctest: +SKIP
        'patience'
    """
    config = run.read_config()
    curves = read_curves(run.metrics) if run.metrics.is_file() else Curves.from_records([])
    if not len(curves):
        raise ValueError(f"{run.metrics} has no record of a step: nothing to report yet.")
    plan = Plan.from_config(config)
    folder = folder or run.path
    findings = verdicts(curves, plan)
    report = Report(
        _heading(plan, run), _status(curves, plan), findings, folder / "report.md",
        folder / "health.png",
    )  # fmt: skip
    title = f"{report.heading}: {report.status}"
    plot_health(curves, plan, findings, report.picture, title)
    with replacing(report.document) as partial:
        partial.write_text(_markdown(report, curves, plan), "utf-8")
    return report


def report(options: ReportOptions) -> Report:
    """What `bit-keras report` does; see `write_report`."""
    folder = Path(options.output) if options.output else None
    return write_report(RunFolder(options.run), folder)


def _heading(plan: Plan, run: RunFolder) -> str:
    if not plan.model or not plan.data:
        return run.path.name
    kind, _, name = plan.data.partition(":")
    shown = f"{kind}:…/{Path(name).name}" if name.startswith("/") else plan.data
    return f"{plan.model} on {shown}"


def _status(curves: Curves, plan: Plan) -> str:
    step = int(curves["step"][-1])
    told = f"{plan.kind}, step {step:,}"
    if plan.steps:
        told += f" of {plan.steps:,}" + (", finished" if step >= plan.steps else "")
    return told


def _markdown(report: Report, curves: Curves, plan: Plan) -> str:
    """The text of report.md."""
    parts = [
        f"# {report.heading}",
        f"{report.status[0].upper()}{report.status[1:]}.",
        f"![Curves of the run]({report.picture.name})",
        "## What the curves say",
        "\n".join(f"- **{_label(f)}** {f.text}" for f in _by_weight(report.findings)),
        "## Settings",
        _settings_table(plan),
        "## Learning rates",
        _plateau_table(curves, plan),
    ]
    if curves.evaluations:
        parts += ["## Evaluations", _evaluation_table(curves)]
    if curves.damaged:
        parts.append(f"{curves.damaged:,} damaged lines of metrics.jsonl were left out.")
    parts.append(
        "The first mean of the loss is over a short, the second over a long window of steps: "
        f"{_windows(curves, plan)}. Written by `bit-keras report` {__version__}; docs/health.md of "
        "bit_keras explains every sentence."
    )
    return "\n\n".join(parts) + "\n"


def _label(finding: Finding) -> str:
    return f"{MARKS[finding.severity]} {finding.kind.capitalize()}."


def _windows(curves: Curves, plan: Plan) -> str:
    windows = LossWindows.for_run(plan.steps or int(curves["step"][-1]))
    return f"{windows.short:,} and {windows.long:,}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: object) -> str:
    if value is None or value == ():
        return "–"
    if isinstance(value, tuple):
        return ", ".join(map(_cell, value))
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _settings_table(plan: Plan) -> str:
    """Every setting beside the recipe's."""
    paper = plan.paper or Plan()
    names = {
        "num_examples": "examples", "epochs": "epochs", "batch_size": "batch size",
        "steps": "steps", "images": "images seen", "learning_rate": "learning rate",
        "warmup_steps": "warm-up steps", "boundaries": "÷10 at steps", "momentum": "momentum",
        "weight_decay": "weight decay",
    }  # fmt: skip
    rows = [[t, _cell(getattr(plan, n)), _cell(getattr(paper, n))] for n, t in names.items()]
    if plan.weight_decay:
        times = (planned_decay_times(plan), planned_decay_times(paper))
        rows.append(["decay times", *map(_cell, times)])
    rule = "the HyperRule" if plan.kind == "fine-tuning" else "the recipe"
    return _table(["", "this run", rule], rows)


def _plateau_table(curves: Curves, plan: Plan) -> str:
    """A row for each learning rate: where the loss and the norms went."""
    windows = LossWindows.for_run(plan.steps or int(curves["step"][-1]))
    header = ["learning rate", "steps", "loss", "at its end", "in 1,000 steps"]
    if norms := curves.has("weight_norm"):
        header += ["‖w‖", "effective rate"]
    rows = []
    for plateau in curves.plateaus():
        steps = curves["step"][plateau.slice]
        found = loss_trend(curves, plateau, windows)
        line = found.long if found else None
        row = [
            f"{plateau.learning_rate:.4g}",
            f"{steps[0]:,.0f}–{steps[-1]:,.0f}",
            " → ".join(f"{mean:.4g}" for mean in _ends(curves["loss"], plateau)),
            _STATES[found.state] if found else "too short to tell",
            f"{1000 * line.slope:+.2g} ± {1000 * line.error:.1g}" if line else "–",
        ]
        ends = _ends(curves["weight_norm"], plateau)
        if norms:
            row += [
                " → ".join(f"{norm:.4g}" for norm in ends) or "–",
                " → ".join(f"{plateau.learning_rate / norm**2:.2g}" for norm in ends) or "–",
            ]
        rows.append(row)
    return _table(header, rows) if rows else "None yet: the run is in its warm-up."


def _ends(values: np.ndarray, plateau: Plateau) -> tuple[float, ...]:
    """Means over the first and the last twentieth of a plateau; none of nothing."""
    part = values[plateau.slice]
    part = part[np.isfinite(part)]
    width = max(1, len(part) // 20)
    return (float(part[:width].mean()), float(part[-width:].mean())) if len(part) else ()


def _evaluation_table(curves: Curves) -> str:
    """The best and the last evaluation."""
    names = [name for name in curves.evaluations[-1] if name != "step"]
    chosen = {"last": curves.evaluations[-1]}
    if "top1" in names:
        scored = [r for r in curves.evaluations if "top1" in r]
        chosen = {"best top-1": max(scored, key=lambda record: record["top1"]), **chosen}
    rows = [
        [what, f"{record['step']:,.0f}", *(f"{100 * record.get(n, np.nan):.1f} %" for n in names)]
        for what, record in chosen.items()
    ]
    return _table(["", "step", *(name.replace("_", " ") for name in names)], rows)
