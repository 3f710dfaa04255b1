"""Python functions inside tf.data pipelines, without a hang when the process ends.

A pipeline works ahead in threads of its own. If Python shuts down while one of them waits to enter
a Python function, that call never returns, and freeing the pipeline waits for it for ever. This
happens to any script that ends, or fails, while an iterator is alive. So the calls are counted, and
when the process ends they are turned away and the running ones awaited.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

_Result = TypeVar("_Result")

_QUIET_SECONDS = 0.1  # without a call, after which none is expected any more
_PATIENCE_SECONDS = 10.0

_lock = threading.Lock()
_ending = threading.Event()
_running = 0
_last_call = 0.0


def countable(function: Callable[..., _Result]) -> Callable[..., _Result]:
    """The function, for `tf.numpy_function` in a pipeline."""

    def call(*args: Any) -> _Result:
        global _running, _last_call
        with _lock:
            _last_call = time.monotonic()
            if _ending.is_set():
                raise RuntimeError("The process is ending")
            _running += 1
        try:
            return function(*args)
        finally:
            with _lock:
                _running -= 1

    return call


@atexit.register
def _end_calls() -> None:
    """Runs while threads can still enter Python: lets pipelines come to rest."""
    if not _last_call:
        return
    _ending.set()
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        with _lock:
            if not _running and time.monotonic() - _last_call > _QUIET_SECONDS:
                return
        time.sleep(0.01)
