"""The folder of a run: what it was measured on, when, and how each part went."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.speed.machine import Machine
from bit_keras.files import replacing

_FILE = "run.json"


@dataclass(frozen=True)
class Attempt:
    """How one part went.

    Attributes:
        begun: UTC, "2026-01-31 14:59".
        seconds: that it took.
        load: load average of the last minute when it began.
        error: what went wrong; empty when nothing did.
    """

    begun: str
    seconds: float
    load: float
    error: str = ""


@dataclass
class Run:
    """A run, perhaps of several sittings on one machine.

    Attributes:
        quick: whether it is a quick one.
        machine: that it is measured on.
        parts: how they went, by name.
    """

    quick: bool
    machine: Machine
    parts: dict[str, Attempt] = field(default_factory=dict)

    @property
    def dates(self) -> str:
        """The day, or the first and the last."""
        days = sorted({attempt.begun.split()[0] for attempt in self.parts.values()})
        return " to ".join(dict.fromkeys((days[0], days[-1]))) if days else "no day"

    def write(self, folder: Path) -> None:
        """Writes it into its folder."""
        with replacing(folder / _FILE) as partial:
            partial.write_text(json.dumps(dataclasses.asdict(self), indent=1))

    @classmethod
    def read(cls, folder: Path) -> Run:
        """What `write` wrote.

        Raises:
            FileNotFoundError: when the folder has no run.
        """
        path = folder / _FILE
        if not path.is_file():
            raise FileNotFoundError(f"{folder} has no {_FILE}: nothing has been measured there.")
        data = json.loads(path.read_text())
        parts = {name: Attempt(**attempt) for name, attempt in data["parts"].items()}
        return cls(data["quick"], Machine(**data["machine"]), parts)

    @classmethod
    def resumed(cls, folder: Path, quick: bool, machine: Machine) -> Run:
        """The folder's run to go on with, or a new one.

        Raises:
            ValueError: when what is there cannot stand in one document with what is to come.
        """
        try:
            run = cls.read(folder)
        except FileNotFoundError:
            return cls(quick, machine)
        kind = "quick" if run.quick else "full"
        if run.quick != quick:
            raise ValueError(f"{folder} holds a {kind} run. Choose another folder with --out.")
        if run.machine != machine:
            raise ValueError(
                f"{folder} was measured on another machine or with other versions: "
                f"{run.machine}, not {machine}. Choose another folder with --out."
            )
        return run
