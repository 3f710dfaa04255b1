"""The records of metrics.jsonl as arrays; a million steps are read in seconds."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np

COLUMNS = (
    "step", "loss", "learning_rate", "images_per_second", "weight_norm", "gradient_norm",
)  # fmt: skip
_CHUNK = 1 << 20  # bytes of lines that are parsed at once
_SHORTEST_PLATEAU = 20  # steps; a warm-up's rate changes at every one


@dataclass(frozen=True)
class Plateau:
    """Steps in a row at one learning rate; `start` and `stop` are places in the arrays."""

    start: int
    stop: int
    learning_rate: float

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def slice(self) -> slice:
        """Its part of an array."""
        return slice(self.start, self.stop)


@dataclass(frozen=True)
class Curves:
    """A run's records.

    Attributes:
        columns: float64 [N] for each of `COLUMNS`, by ascending step, each step once; NaN where a
            record has no such number.
        evaluations: records of evaluations, by ascending step.
        damaged: lines that could not be read.
    """

    columns: dict[str, np.ndarray]
    evaluations: list[dict[str, float]]
    damaged: int = 0

    @classmethod
    def from_records(cls, records: Iterable[Mapping[str, Any]]) -> Curves:
        """Takes records as metrics.jsonl has them."""
        reader = _Reader()
        reader.take(list(records))
        return reader.curves()

    def __len__(self) -> int:
        return len(self.columns["step"])

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    def has(self, name: str) -> bool:
        """Whether any record has this number."""
        return bool(np.isfinite(self.columns[name]).any())

    def positive_learning_rate(self) -> np.ndarray:
        """Learning rates, [N]; NaN for 0, where a warm-up begins."""
        return np.where(self["learning_rate"] > 0, self["learning_rate"], np.nan)

    def effective_learning_rate(self) -> np.ndarray:
        """Learning rate / ‖w‖², [N]; NaN where one is 0 or not known."""
        return self.positive_learning_rate() / self["weight_norm"] ** 2

    def plateaus(self) -> list[Plateau]:
        """The stretches of constant learning rate; a warm-up belongs to none."""
        rates = self["learning_rate"]
        if not self.has("learning_rate"):
            return [Plateau(0, len(self), float("nan"))] if len(self) else []
        changes = np.abs(np.diff(rates)) > 1e-6 * np.abs(rates[1:])
        edges = [0, *(np.flatnonzero(changes) + 1).tolist(), len(self)]
        return [
            Plateau(start, stop, float(rates[start]))
            for start, stop in itertools.pairwise(edges)
            if stop - start >= _SHORTEST_PLATEAU
        ]


class _Reader:
    """Collects records, chunk by chunk."""

    def __init__(self) -> None:
        self.parts: dict[str, list[np.ndarray]] = {name: [] for name in COLUMNS}
        self.evaluations: dict[float, dict[str, float]] = {}
        self.damaged = 0

    def take(self, records: Sequence[Mapping[str, Any]]) -> None:
        steps = [record for record in records if "loss" in record]
        columns = {
            name: np.array([record.get(name, np.nan) for record in steps], np.float64)
            for name in COLUMNS
        }
        evaluations = {
            record["step"]: dict(record)
            for record in records
            if "loss" not in record and len(record) > 1
        }
        for name, column in columns.items():
            self.parts[name].append(column)
        self.evaluations |= evaluations

    def lines(self, lines: Sequence[bytes]) -> None:
        try:
            self.take(json.loads(b"[" + b",".join(lines) + b"]"))
        except (ValueError, TypeError, AttributeError, KeyError):  # some line is damaged: which?
            records = [_record(line) for line in lines]
            # A last line without its end is one that is just being written.
            self.damaged += sum(
                record is None and line.endswith(b"\n")
                for record, line in zip(records, lines, strict=True)
            )
            self.take([record for record in records if record])

    def curves(self) -> Curves:
        columns = {name: np.concatenate([np.empty(0), *p]) for name, p in self.parts.items()}
        # A step that a resumed run did again counts as it was done last.
        steps, last = np.unique(columns["step"][::-1], return_index=True)
        order = len(columns["step"]) - 1 - last
        order = order[np.isfinite(steps) & np.isfinite(columns["loss"][order])]
        return Curves(
            {name: column[order] for name, column in columns.items()},
            [self.evaluations[step] for step in sorted(self.evaluations)],
            self.damaged,
        )


def _record(line: bytes) -> dict[str, Any] | None:
    """The record of a line; None for one that is cut short or holds something else."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or "step" not in record:
        return None
    return record if all(isinstance(v, (int, float)) for v in record.values()) else None


def read_curves(path: str | PathLike[str]) -> Curves:
    """Reads metrics.jsonl; lines that are damaged or cut short are left out and counted.

    Raises:
        OSError: when the file cannot be read.
    """
    reader = _Reader()
    with open(path, "rb") as stream:
        while lines := stream.readlines(_CHUNK):
            reader.lines(lines)
    return reader.curves()
