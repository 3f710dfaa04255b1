"""Contestants in processes of their own, which take turns; medians, ranges and ratios of them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.environments import REPOSITORY

PAUSE = 0.3  # seconds in which the last one's threads fall asleep


@dataclass(frozen=True)
class Contestant:
    """What runs, and where.

    Attributes:
        name: in tables.
        module: of its process, such as "benchmarks.speed.torch_peer"; it calls `worker.serve`.
        settings: given to it as JSON, its first argument.
        python: the interpreter, of the peer's environment; ours when left out.
        variables: environment variables beside the inherited ones.
    """

    name: str
    module: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    python: Path | str = sys.executable
    variables: Mapping[str, str] = field(default_factory=dict)


class Process:
    """A contestant that is running.

    Attributes:
        about: what it said of itself when it was ready.
    """

    def __init__(self, contestant: Contestant) -> None:
        self.contestant = contestant
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115, closed by `close`
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
        self._process = subprocess.Popen(
            [str(contestant.python), "-m", contestant.module, json.dumps(contestant.settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=REPOSITORY,
            env={**os.environ, **quiet, **contestant.variables},
        )
        self.about = self._hear()

    def _hear(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            status = self._process.wait()
            self._log.seek(0)
            raise RuntimeError(
                f"{self.contestant.name} ended with status {status}:\n{self._log.read()[-3000:]}"
            )
        return json.loads(line)

    def ask(self, task: str, **arguments: Any) -> Any:
        """Lets it do a task, and waits for the result.

        Raises:
            RuntimeError: when it ends instead, with what it wrote last.
        """
        if self._process.stdin:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(json.dumps({"do": task, **arguments}) + "\n")
                self._process.stdin.flush()
        return self._hear()["is"]

    def close(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.communicate()
        self._log.close()


@contextlib.contextmanager
def started(contestants: Sequence[Contestant]) -> Iterator[list[Process]]:
    """All of them running, one started after the other; ended when the block is left."""
    processes: list[Process] = []
    try:
        for contestant in contestants:
            processes.append(Process(contestant))
        yield processes
    finally:
        for process in processes:
            process.close()


@dataclass(frozen=True)
class Measured:
    """What one contestant took in each round: the median seconds of the calls in it."""

    name: str
    seconds: list[float]

    @property
    def typical(self) -> float:
        """Median of the rounds, seconds."""
        return median(self.seconds)

    def ratio_to(self, other: Measured) -> tuple[float, float, float]:
        """How many times as fast as another, round by round: median, least and most."""
        ratios = [b / a for a, b in zip(self.seconds, other.seconds, strict=True)]
        return median(ratios), min(ratios), max(ratios)


def by_turns(
    processes: Sequence[Process], task: str, rounds: int, **arguments: Any
) -> list[Measured]:
    """Lets all do the same task in turns, A B C A B C …, each in every round.

    The order is reversed every other round, so that none always follows the same one. The task
    returns the seconds of each of its calls.
    """
    found: dict[str, list[float]] = {p.contestant.name: [] for p in processes}
    for number in range(rounds):
        for process in processes if number % 2 == 0 else reversed(processes):
            time.sleep(PAUSE)
            found[process.contestant.name].append(median(process.ask(task, **arguments)))
    return [Measured(name, seconds) for name, seconds in found.items()]
