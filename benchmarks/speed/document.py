"""The benchmark's findings as a Markdown document with pictures."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.speed.machine import Machine
from benchmarks.speed.pictures import draw_bars, draw_curves
from benchmarks.speed.reasons import reason
from benchmarks.speed.results import Bars, Curves, Part, Table, Target
from benchmarks.speed.run import Run
from bit_keras.files import replacing

PICTURES = "images/benchmarks"  # below the document's folder
CEILINGS, PROFILE = "ceilings", "profile"  # parts with a place of their own
QUICK = (
    "**A quick run**: small networks, few rounds. It shows that everything works; its figures are "
    "no measure of anything."
)


def write_document(run: Run, parts: Sequence[Part], path: Path) -> None:
    """Writes the document and, in `images/benchmarks` beside it, its pictures.

    Args:
        run: what the parts were measured in.
        parts: in the order to show them in.
        path: the Markdown file to write.
    """
    with replacing(path.parent / PICTURES, folder=True) as folder:
        for part in parts:
            for name, draw, what in _pictures(part):
                draw(what, folder / name)
    with replacing(path) as partial:
        partial.write_text(document(run, parts), "utf-8")


def document(run: Run, parts: Sequence[Part]) -> str:
    """The Markdown text.

    Args:
        run: what the parts were measured in.
        parts: in the order to show them in.
    """
    by_name = {part.name: part for part in parts}
    targets = sorted((t for part in parts for t in part.targets), key=_place)
    missed = [target for target in targets if not target.reached]
    blocks = ["# Speed and memory, side by side with every peer"]
    blocks += _opening(run, parts)
    if ceilings := by_name.pop(CEILINGS, None):
        blocks += _section(ceilings, "##")
    if targets:
        blocks += _targets(targets)
    profile = by_name.pop(PROFILE, None)
    for part in by_name.values():
        blocks += _section(part, "##")
    if missed:
        blocks += ["## Why not", *_why(missed, profile)]
    if profile:
        blocks += _section(profile, "###" if missed else "##")
    return "\n\n".join([*blocks, *_closing(run)]) + "\n"


def markdown_table(table: Table) -> str:
    """A table in Markdown, without its title."""
    sides = table.align.ljust(len(table.header), "l")
    rule = ["---:" if side == "r" else "---" for side in sides]
    cells = [[cell.replace("|", r"\|").replace("\n", " ") for cell in row] for row in table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in (list(table.header), rule, *cells))


def _opening(run: Run, parts: Sequence[Part]) -> list[str]:
    command = "python -m benchmarks.speed" + (" --quick" if run.quick else "")
    blocks = [
        f"Written by `{command}` ({'`make bench-quick`' if run.quick else '`make bench`'}) on "
        f"{run.dates}. Contestants run in processes and environments of their own and take turns; "
        "figures are medians of the rounds, ranges are the least and the most of them, and ratios "
        "are taken round by round. Outputs are compared before anything is timed."
    ]
    if run.quick:
        blocks.append(QUICK)
    rows = [*_of_machine(run.machine), ("libraries", _versions(run.machine, parts))]
    return [*blocks, markdown_table(Table("", ("", "this run"), rows, "ll"))]


def _of_machine(machine: Machine) -> list[tuple[str, str]]:
    return [
        ("processor", machine.processor),
        ("of its features", machine.features),
        ("cores, and threads of every contestant", str(machine.cores)),
        ("memory", f"{machine.memory:g} GiB"),
        ("kernel", machine.kernel),
        ("Python", machine.python),
    ]


def _versions(machine: Machine, parts: Iterable[Part]) -> str:
    found: dict[str, dict[str, None]] = {}
    for versions in (machine.versions, *(part.versions for part in parts)):
        for name, version in versions.items():
            found.setdefault(name.replace("_", "-"), {})[version] = None
    return ", ".join(f"{name} {' and '.join(found[name])}" for name in sorted(found))


def _place(target: Target) -> tuple[int, str]:
    digits = re.match(r"\d+", target.number)
    return int(digits[0]) if digits else 0, target.number


def _targets(targets: Sequence[Target]) -> list[str]:
    reached = sum(target.reached for target in targets)
    rows = [(t.number, t.asked, t.found, "yes" if t.reached else "**no**") for t in targets]
    return [
        "## Targets",
        f"{reached} of {len(targets)} reached.",
        markdown_table(Table("", ("", "asked", "found", "reached"), rows, "llll")),
    ]


def _section(part: Part, level: str) -> list[str]:
    blocks = [f"{level} {part.title}", part.method]
    for table in part.tables:
        blocks += [f"**{table.title}**", markdown_table(table)]
    return [*blocks, *(f"![{what.title}]({PICTURES}/{name})" for name, _, what in _pictures(part))]


def _pictures(part: Part) -> list[tuple[str, Callable[[Any, Path], None], Bars | Curves]]:
    """File name, drawing function and content of each picture."""
    drawn: list[Bars | Curves] = [*part.bars, *part.curves]
    return [
        (f"{part.name}-{i}.png", draw_bars if isinstance(what, Bars) else draw_curves, what)
        for i, what in enumerate(drawn, 1)
    ]


def _why(missed: Sequence[Target], profile: Part | None) -> list[str]:
    blocks = [f"**{t.number}. {t.asked}** — found {t.found}.\n\n{reason(t)}" for t in missed]
    return [*blocks, "The profiles that this refers to:"] if profile else blocks


def _closing(run: Run) -> list[str]:
    header = ("part", "begun, UTC", "minutes", "load average before", "")
    rows = [
        (name, of.begun, f"{of.seconds / 60:.1f}", f"{of.load:.1f}",
         f"failed: {of.error}" if of.error else "")
        for name, of in run.parts.items()
    ]  # fmt: skip
    return ["## The run", markdown_table(Table("", header, rows, "llrrl"))]
