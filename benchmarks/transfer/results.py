"""Results as lines of JSON that several processes add to, and who measures what."""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.transfer.targets import Job


class Results:
    """What has been measured, one JSON object on a line of `results.jsonl`.

    Args:
        work: the folder.
    """

    def __init__(self, work: Path) -> None:
        self.path = work / "results.jsonl"
        self._claims = work / "claims"

    def read(self) -> list[dict[str, Any]]:
        """All records; a line that a kill cut short is left out."""
        found = []
        for line in self.path.read_text("utf-8").splitlines() if self.path.is_file() else ():
            with contextlib.suppress(json.JSONDecodeError):
                found.append(json.loads(line))
        return found

    def done(self) -> set[Job]:
        """The jobs that have a record."""
        return {Job(r["target"], r["start"], r["seed"]) for r in self.read()}

    def add(self, record: dict[str, Any]) -> None:
        """Adds a record, in one write."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        cut_short = self.path.is_file() and not self.path.read_bytes().endswith(b"\n")
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write("\n" * bool(cut_short) + json.dumps(record) + "\n")

    @contextlib.contextmanager
    def claim(self, job: Job) -> Iterator[bool]:
        """Whether a job is ours while the block runs: not done, and in no other process' hands.

        The lock ends with the process, whatever happens to it.
        """
        self._claims.mkdir(parents=True, exist_ok=True)
        with (self._claims / job.name).open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield job not in self.done()
