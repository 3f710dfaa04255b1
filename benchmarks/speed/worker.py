"""The contestant's side: a process that does one thing whenever it is told, and says how long.

Only the standard library, for it runs in the environments of all peers.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

Task = Callable[..., Any]


def seconds_of(step: Callable[[], object], seconds: float, least: int = 1) -> list[float]:
    """Repeats `step` for about so many seconds; the time of each call."""
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < least or time.perf_counter() - started < seconds:
        before = time.perf_counter()
        step()
        times.append(time.perf_counter() - before)
    return times


def peak_bytes() -> int:
    """The most memory that this process has held so far, from the kernel's own account."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def resident_bytes() -> int:
    """The memory that this process holds now."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def serve(tasks: dict[str, Task], **about: Any) -> None:
    """Says that it is ready, then does what each line of the standard input asks for.

    A line is a JSON object with the task's name as "do" and its arguments; the answer is one line
    of JSON with the task's result as "is". Whatever else the process prints goes to stderr.

    Args:
        tasks: by name.
        **about: said at once, such as the versions in use.
    """
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**what: Any) -> None:
        out.write(json.dumps(what) + "\n")
        out.flush()

    answer(**about)
    for line in sys.stdin:
        asked = json.loads(line)
        answer(**{"is": tasks[asked.pop("do")](**asked)})
