"""Makes sure that Keras runs on TensorFlow, and that TensorFlow starts quietly."""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def _verbose() -> bool:
    return os.environ.get("BIT_KERAS_VERBOSE", "0") not in ("", "0")


def quiet_tensorflow() -> None:
    """Silences TensorFlow's log messages below fatal, before it is imported.

    A level that the user has set stays; `BIT_KERAS_VERBOSE=1` leaves everything on.
    """
    if not _verbose():
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@contextlib.contextmanager
def _muted_stderr() -> Iterator[None]:
    """Holds back what C++ libraries write to stderr; lets it out when the block raises."""
    with tempfile.TemporaryFile() as held:
        sys.stderr.flush()
        real = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(real, held.read())
            raise
        finally:
            os.dup2(real, 2)
            os.close(real)


def load_tensorflow() -> None:
    """Imports TensorFlow and Keras without the messages of their start.

    TensorFlow's libraries write some lines before they heed any log level, so stderr is held back
    for the time of the import.

    Raises:
        ImportError: when Keras runs on another backend.
    """
    if "tensorflow" not in sys.modules and not _verbose():
        quiet_tensorflow()
        with _muted_stderr():
            importlib.import_module("tensorflow")
            importlib.import_module("keras")
    importlib.import_module("keras")
    check_backend()


def _backend_of_settings() -> str:
    """The backend in Keras' settings file, without importing Keras."""
    home = os.environ.get("KERAS_HOME") or Path("~/.keras").expanduser()
    try:
        return json.loads(Path(home, "keras.json").read_text())["backend"]
    except (OSError, ValueError, KeyError, TypeError):  # no such file or entry: Keras' default
        return "tensorflow"


class _AfterKeras(importlib.abc.MetaPathFinder):
    """Runs a function once, right after Keras is imported."""

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Keras' own spec, with a loader that calls the function at its end."""
        if name != "keras":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                load(module)
                self.function()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def after_keras(function: Callable[[], None]) -> None:
    """Runs `function` now if Keras is imported, else right after it is.

    Keras loads a `.keras` file only when the classes in it are registered, and ours are registered
    by modules that `import bit_keras` leaves for later.
    """
    if "keras" in sys.modules:
        function()
    else:
        sys.meta_path.insert(0, _AfterKeras(function))


def check_backend() -> None:
    """Raises when Keras is set, or already running, on another backend than TensorFlow.

    Raises:
        ImportError: naming the backend found and what to set instead.
    """
    if "keras" in sys.modules and hasattr(sys.modules["keras"], "config"):
        found = sys.modules["keras"].config.backend()
    else:
        found = os.environ.get("KERAS_BACKEND") or _backend_of_settings()
    if found != "tensorflow":
        raise ImportError(
            f"bit_keras runs on Keras' TensorFlow backend, but the backend is {found!r}. Set "
            "KERAS_BACKEND=tensorflow in the environment (or in ~/.keras/keras.json) before "
            "Keras is imported."
        )
