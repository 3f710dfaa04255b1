"""The run folder: what one training leaves behind, and the rules for using a folder again."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any

from bit_keras.files import replacing

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_LOCK = ".lock"


class RunFolderError(ValueError):
    """A run folder that is taken, belongs to another run, or is not one."""


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """Nested settings by their own names only: {"rule": {"steps": 5}} → {"rule.steps": 5}."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat.update({f"{key}.{name}": inner for name, inner in value.items()})
        else:
            flat[key] = value
    return flat


class RunFolder:
    """Paths and records of one run.

    Args:
        path: the folder; made by `claim`.

    Example:
        >>> run = RunFolder("runs/flowers")
        >>> run.npz.name
        'model.npz'
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"
        self.npz = self.path / "model.npz"
        self.keras = self.path / "model.keras"
        self.module = self.path / "module"
        self.serving = self.path / "serving" / "1"  # TensorFlow Serving wants a version folder
        self.evaluation = self.path / "evaluation.json"
        self.confusion = self.path / "confusion.png"
        self.curve = self.path / "learning_curve.png"

    @contextlib.contextmanager
    def claim(self, config: dict[str, Any], *, resume: bool, overwrite: bool) -> Iterator[None]:
        """Holds the folder for this run while the block runs, or refuses.

        Args:
            config: all that determines the run's result, JSON-ready.
            resume: go on with the same run where its last checkpoint is.
            overwrite: delete the run that is there.

        Raises:
            RunFolderError: when the folder holds a run and neither flag is given, when a run to
                be resumed was started with other settings, when another process works in the
                folder, or when it holds other things. Nothing in it is touched then.
        """
        held = {entry.name for entry in self.path.iterdir()} if self.path.is_dir() else set()
        if held and not held & {self.config.name, _LOCK}:
            raise RunFolderError(
                f"{self.path} is not empty and not a run folder. Choose another --output."
            )
        self.path.mkdir(parents=True, exist_ok=True)
        with self._locked():
            # A run that failed before its first step has settings only; nothing is lost with it.
            taken = bool({n for n in held if not n.startswith(".")} - {self.config.name})
            if taken and not (resume or overwrite):
                raise RunFolderError(
                    f"{self.path} holds a run already. Pass --resume to go on with it, --overwrite "
                    "to delete it, or choose another --output."
                )
            if taken and resume:
                self._check_same(config)
            elif taken:
                self._delete()
            elif resume:
                print(f"{self.path} holds no run yet: starting one.", file=sys.stderr)
            self._remove_partial()
            self.write_json(self.config, config)
            yield

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Holds the folder's lock, which ends with the process whatever happens to it."""
        if fcntl is None:
            yield
            return
        with (self.path / _LOCK).open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunFolderError(
                    f"Another process is working in {self.path}. Wait for it, or choose another "
                    "--output."
                ) from None
            yield

    def _delete(self) -> None:
        """Removes the run; its settings last, so that a half-removed one is still known as one."""
        for entry in self.path.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name not in (self.config.name, _LOCK):
                entry.unlink()

    def _remove_partial(self) -> None:
        """Removes what a killed process left under temporary names."""
        for folder in (self.path, self.serving.parent):
            for leftover in folder.glob(".*.????????.partial"):
                shutil.rmtree(leftover, ignore_errors=True)

    def _check_same(self, config: dict[str, Any]) -> None:
        before = _flat(self.read_config())
        now = _flat(json.loads(json.dumps(config)))
        changed = [
            f"{key}: {before.get(key)!r} then, {now.get(key)!r} now"
            for key in sorted({*before, *now})
            if before.get(key) != now.get(key)
        ]
        if changed:
            raise RunFolderError(
                f"{self.path} was started with other settings, so it cannot be resumed with these: "
                f"{'; '.join(changed)}. Pass the same flags, or another --output."
            )

    def read_config(self) -> dict[str, Any]:
        """The run's settings.

        Raises:
            RunFolderError: when the folder holds no run.
        """
        try:
            return json.loads(self.config.read_text("utf-8"))
        except FileNotFoundError:
            raise RunFolderError(
                f"{self.path} is not a run folder: it has no config.json. "
                "Pass the --output of a `bit-keras pretrain` or `finetune`."
            ) from None
        except json.JSONDecodeError as error:
            raise RunFolderError(f"{self.config} is damaged: {error}.") from error

    @staticmethod
    def write_json(path: Path, value: Any) -> None:
        """Writes JSON that is there whole or not at all."""
        with replacing(path) as partial:
            partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")

    def read_metrics(self) -> Iterator[dict[str, Any]]:
        """The records of metrics.jsonl; a last line that a kill cut short is left out."""
        if not self.metrics.is_file():
            return
        with self.metrics.open("r", encoding="utf-8") as stream:
            for line in stream:  # not all at once: a long run has gigabytes
                try:
                    yield json.loads(line)
                except json.JSONDecodeError:
                    return

    def rewind_metrics(self, step: int) -> None:
        """Drops records after `step`: a resumed run writes them again."""
        if not self.metrics.is_file():
            return
        with replacing(self.metrics) as partial, partial.open("w", encoding="utf-8") as stream:
            for record in self.read_metrics():
                if record["step"] <= step:
                    stream.write(json.dumps(record) + "\n")

    def append_metrics(self, records: Iterable[dict[str, Any]]) -> None:
        """Adds records, one JSON object on a line each."""
        with self.metrics.open("a") as stream:
            stream.writelines(json.dumps(record) + "\n" for record in records)
