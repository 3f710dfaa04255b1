"""Files and folders that appear under their name only when they are whole."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import BinaryIO

_CHUNK = 1 << 20


def sha256_of_stream(stream: BinaryIO) -> str:
    """The SHA-256 of what is left of an open binary file, hexadecimal."""
    digest = hashlib.sha256()
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def sha256_of(path: str | PathLike[str]) -> str:
    """The SHA-256 of a local file, hexadecimal."""
    with Path(path).open("rb") as stream:
        return sha256_of_stream(stream)


@contextlib.contextmanager
def tensorflow_disk_errors(path: str | PathLike[str]) -> Iterator[None]:
    """Turns TensorFlow's error for a full disk into an OSError that says what to do.

    TensorFlow has one error, ResourceExhaustedError, for a full disk and for memory that ran out;
    the latter passes unchanged. The class is told by its name, so that nothing is imported here.
    """
    try:
        yield
    except Exception as error:
        text = str(error)
        full = "No space left" in text or "quota exceeded" in text
        if type(error).__name__ != "ResourceExhaustedError" or not full:
            raise
        raise _explained(OSError(errno.ENOSPC, text), Path(path)) from error


def _explained(error: OSError, path: Path) -> OSError:
    """The error with what to do about a full disk; any other as it is."""
    if error.errno != errno.ENOSPC:
        return error
    free = shutil.disk_usage(path.parent).free
    return OSError(
        errno.ENOSPC,
        f"No space left to write {path} ({free / 1e6:.0f} MB free). Free some space or choose "
        "another folder; nothing that was there before is lost",
    )


def _discard(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _exchange(partial: Path, path: Path, old: Path) -> None:
    """Renames `partial` to `path`; a folder that is there moves to `old`, and back on failure."""
    if not (partial.is_dir() and path.exists()):
        os.replace(partial, path)
        return
    os.rename(path, old)
    try:
        os.replace(partial, path)
    except BaseException:
        os.rename(old, path)
        raise


@contextlib.contextmanager
def replacing(path: str | PathLike[str], *, folder: bool = False) -> Iterator[Path]:
    """Gives a temporary path beside `path`, and renames it to `path` when the block succeeds.

    Whatever goes wrong in the block, what stood at `path` stays and the temporary is removed.

    Args:
        path: the final name; its parent folders are made.
        folder: make a folder instead of a file; one that is already there is replaced.

    Raises:
        OSError: whatever the block raises; a full disk is explained.

    Example:
        >>> with replacing(Path(tempfile.mkdtemp()) / "numbers.txt") as partial:
        ...     partial.write_text("1 2 3")
        5
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    room = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    partial = room / path.name
    if folder:
        partial.mkdir()
    try:
        yield partial
        _exchange(partial, path, room / f"{path.name}.old")
    except OSError as error:
        explained = _explained(error, path)
        if explained is error:
            raise
        raise explained from error
    finally:
        _discard(room)
