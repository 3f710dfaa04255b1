"""Speed and memory beside every peer, in one run.

    python -m benchmarks.speed [--quick] [--only PART …] [--out FOLDER] [--docs PATH] [--report]

Parts are measured one after the other and written to FOLDER/PART.json; those that fail say so, and
the others go on. A full run then writes docs/benchmarks.md from all that FOLDER holds. A quick one
prints its tables and writes FOLDER/benchmarks.md. A run can be taken in several sittings with
--only, on the same machine; --report writes the document again and measures nothing.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
import traceback
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from benchmarks.environments import REPOSITORY
from benchmarks.speed.document import write_document
from benchmarks.speed.machine import load_warning, this_machine
from benchmarks.speed.results import Part
from benchmarks.speed.run import Attempt, Run
from bit_keras.text import table

PARTS = (
    "ceilings",
    "inference",
    "norm",
    "growth",
    "startup",
    "training",
    "memory",
    "loss_curves",
    "input",
    "profile",
)
DOCUMENT = "benchmarks.md"


class Clock:
    """Says on stderr what begins and ends, with the time since the start."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    def say(self, text: str) -> None:
        """Writes a line."""
        minutes, seconds = divmod(int(time.monotonic() - self._begun), 60)
        print(f"[{minutes:2d}:{seconds:02d}] {text}", file=sys.stderr, flush=True)


def attempted(name: str, quick: bool, folder: Path) -> Attempt:
    """Measures a part and writes its file; one of an earlier run goes first.

    Args:
        name: of the module in this package that has `measure(quick) -> Part`.
        quick: handed on.
        folder: for the file.
    """
    (folder / f"{name}.json").unlink(missing_ok=True)
    begun, load = datetime.now(timezone.utc), os.getloadavg()[0]
    started, error = time.monotonic(), ""
    try:
        module = importlib.import_module(f"benchmarks.speed.{name}")
        module.measure(quick).write(folder)
    except Exception as failure:
        traceback.print_exc()
        line = str(failure).partition("\n")[0].replace(f"{REPOSITORY}/", "")
        error = f"{type(failure).__name__}: {line}"
    return Attempt(
        f"{begun:%Y-%m-%d %H:%M}", round(time.monotonic() - started, 1), round(load, 2), error
    )


def measured(names: Sequence[str], run: Run, folder: Path) -> list[str]:
    """Measures parts strictly one after the other; the names of those that failed.

    Args:
        names: of parts.
        run: is told how each of them went, and kept in the folder.
        folder: for its files.
    """
    clock, failed = Clock(), []
    for place, name in enumerate(names, 1):
        clock.say(f"{name} ({place} of {len(names)})")
        attempt = run.parts[name] = attempted(name, run.quick, folder)
        run.write(folder)
        if attempt.error:
            failed.append(name)
        clock.say(f"{name} {'FAILED' if attempt.error else 'done'} after {attempt.seconds:.0f} s")
    return failed


def results(folder: Path) -> list[Part]:
    """What has been measured in a folder, in the order of `PARTS`."""
    paths = [folder / f"{name}.json" for name in PARTS]
    return [Part.read(path) for path in paths if path.is_file()]


def report(run: Run, folder: Path, docs: Path) -> None:
    """Prints the tables and writes the document; a quick run's stays in its folder."""
    parts = results(folder)
    for part in parts:
        for found in part.tables:
            print(f"{found.title}\n\n{table(found.header, found.rows, found.align)}\n")
    targets = [
        (t.number, t.asked, t.found, "yes" if t.reached else "NO") for p in parts for t in p.targets
    ]
    if targets:
        print(table(("", "asked", "found", "reached"), targets))
    path = folder / DOCUMENT if run.quick else docs
    write_document(run, parts, path)
    print(f"Written to {path}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="small networks and few rounds: under five minutes")
    add("--only", nargs="+", default=PARTS, choices=PARTS, metavar="PART",
        help=f"the parts to measure: {', '.join(PARTS)}")  # fmt: skip
    add("--out", type=Path, help="folder of the run; runs/speed or runs/speed-quick if left out")
    add("--docs", type=Path, default=REPOSITORY / "docs" / DOCUMENT,
        help="the document that a full run writes")  # fmt: skip
    add("--report", action="store_true", help="write the document again, and measure nothing")
    return parser


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    default = "speed-quick" if options.quick else "speed"
    folder = options.out or REPOSITORY / "runs" / default
    failed: list[str] = []
    try:
        if options.report:
            run = Run.read(folder)
        else:
            run = Run.resumed(folder, options.quick, this_machine())
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    if not options.report:
        if warning := load_warning(os.getloadavg()[0], run.machine.cores):
            print(f"Warning: {warning}", file=sys.stderr)
        names = [name for name in PARTS if name in options.only]
        failed = measured(names, run, folder)
    report(run, folder, options.docs)
    if failed:
        print(f"Failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
