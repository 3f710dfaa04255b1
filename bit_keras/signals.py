"""Signals that ask a run to stop: noted, so that the state can be saved first."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Terminated(SystemExit):
    """A signal asked the run to stop; the state is saved. Exits with 128 + the signal's number."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(128 + number)
        self.message = message


@contextmanager
def signals_noted() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT instead of dying from them, so that a loop can finish first."""
    noted: list[int] = []

    def note(number: int, frame: Any) -> None:
        if noted and number == signal.SIGINT:
            raise KeyboardInterrupt  # the second Ctrl-C does not wait
        noted.append(number)

    try:
        before = {s: signal.signal(s, note) for s in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not the main thread: signals are somebody else's
        before = {}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
