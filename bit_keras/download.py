"""Downloads one large file so that it is whole or not there, and can be continued.

A download lands in `NAME.part` and gets its name when it is whole. What is needed to continue it,
also in another process, stands beside it in `NAME.part.json`.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import json
import os
import queue
import re
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import requests
import urllib3
from tqdm import tqdm

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

WEIGHTS_VARIABLE = "BIT_KERAS_WEIGHTS"
CACHE_VARIABLE = "BIT_KERAS_CACHE"

CONNECT_SECONDS = 8.0  # to reach one address of the host; twice that for all up to the first byte
STALL_SECONDS = 30.0  # without a byte in the middle of a download: the connection counts as broken
FIRST_PAUSE = 0.5  # seconds before the first retry, doubled for each further one
RETRIES_TO_START = 2
RETRIES_TO_CONTINUE = 4  # without getting further than before
_CHUNK = 1 << 20


class WeightsUnavailableError(OSError):
    """A weights file that is not on this machine and cannot be downloaded."""


class _BrokenError(Exception):
    """An attempt failed in a way in which the next one may not."""


def fetch(
    url: str,
    destination: Path,
    *,
    connect_timeout: float = CONNECT_SECONDS,
    label: str | None = None,
) -> Path:
    """Downloads a file, continuing where an earlier call stopped, unless it is there already.

    The length is checked, and the MD5 sum where the server (Google Cloud Storage) sends one. Of
    several processes one downloads; the others wait and use its file, or fail with its error.

    Args:
        url: http or https; the proxy settings of the environment are honoured.
        destination: path of the file; its parent folders are made.
        connect_timeout: seconds to reach one address of the host. Within twice that the first byte
            has come, or the call fails.
        label: name in the progress bar, on stderr; the file's name when left out.

    Returns:
        `destination`, whole.

    Raises:
        WeightsUnavailableError: no network, a server that refuses, a full or read-only disk, or
            bytes that are not those the server meant to send. Nothing is left at `destination`.

    Example:
        >>> fetch("https://example.org/a.npz", Path("/tmp/a.npz"))  # doctest: +SKIP
        PosixPath('/tmp/a.npz')
    """
    destination = Path(destination)
    if destination.is_file():
        return destination
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with _turn(destination) as part:
            if not destination.is_file():
                _Download(url, destination, part, connect_timeout, label or destination.name).run()
    except WeightsUnavailableError:
        raise
    except OSError as error:
        raise WeightsUnavailableError(
            f"Cannot write {destination}: {error.strerror or error}. Set {CACHE_VARIABLE} to a "
            "folder that can be written to."
        ) from None
    return destination


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


@contextlib.contextmanager
def _turn(destination: Path) -> Iterator[Path]:
    """Waits for the lock of a destination and gives the part file that may be written.

    Where files cannot be locked, the part is this call's own and is not continued later.
    """
    with contextlib.ExitStack() as stack:
        # Stays behind, empty: to delete a lock that others may be waiting for makes two of it.
        path = destination.with_name(f".{destination.name}.lock")
        lock = stack.enter_context(path.open("a+")) if fcntl else None
        if lock is None or not _locked(lock, destination):
            own = _beside(destination, f".{secrets.token_hex(4)}.part")
            stack.callback(_beside(own, ".json").unlink, missing_ok=True)
            stack.callback(own.unlink, missing_ok=True)
            yield own
            return
        try:
            yield _beside(destination, ".part")
        except WeightsUnavailableError as error:
            with contextlib.suppress(OSError):
                lock.write(str(error))
            raise


def _locked(lock: Any, destination: Path) -> bool:
    """Locks an open file, waiting if need be; False where the file system cannot.

    Raises:
        WeightsUnavailableError: the error of the process waited for, so that many processes without
            a network fail together and not one after the other.
    """
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lock.truncate(0)
        return True
    except BlockingIOError:
        print(f"Waiting for another download of {destination.name}.", file=sys.stderr)
    except OSError:
        return False
    fcntl.flock(lock, fcntl.LOCK_EX)
    lock.seek(0)
    failure = lock.read()
    if failure and not destination.is_file():
        raise WeightsUnavailableError(failure)
    return True


def _reason(error: BaseException) -> str:
    """The innermost cause in a few words: "Connection refused" and not urllib3's chain."""
    place = "the proxy: " if isinstance(error, requests.exceptions.ProxyError) else ""
    while True:
        inside = [getattr(error, "reason", None), error.__cause__, *error.args, error.__context__]
        inner = next((e for e in inside if isinstance(e, BaseException)), None)
        if inner is None:
            return place + (getattr(error, "strerror", None) or str(error) or repr(error))
        error = inner


def _open(
    url: str, headers: dict[str, str], connect_timeout: float, patience: float
) -> tuple[requests.Response, bytes]:
    """The response and the first byte of its body, or `_BrokenError` after `patience` seconds.

    In a thread, because nothing else bounds the whole: name resolution has no time limit, and the
    connect timeout holds for each of a host's many addresses.
    """
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def ask() -> None:
        try:
            timeout = (connect_timeout, STALL_SECONDS)
            response = requests.get(url, headers=headers, stream=True, timeout=timeout)
            body = response.status_code in (200, 206)
            answers.put((response, response.raw.read(1) if body else b""))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True, name="bit_keras-download").start()
    try:
        answer = answers.get(timeout=max(patience, 0.0))
    except queue.Empty:
        raise _BrokenError(f"no answer within {patience:.3g} s") from None
    if isinstance(answer, Exception):
        raise _BrokenError(_reason(answer)) from None
    return answer


def _md5_header(response: requests.Response) -> str | None:
    """MD5 of the whole file in hexadecimal, from Google Cloud Storage's header."""
    match = re.search(r"md5=([A-Za-z0-9+/]{22}==)", response.headers.get("x-goog-hash", ""))
    return base64.b64decode(match[1]).hex() if match else None


def _md5_of(path: Path) -> str:
    md5 = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            md5.update(chunk)
    return md5.hexdigest()


@dataclass
class _Download:
    """One call's work on one part file, whose lock is held."""

    url: str
    destination: Path
    part: Path
    connect_timeout: float
    label: str
    answered: bool = False  # a byte has come in this call

    def run(self) -> None:
        """Tries until the file is whole or further attempts have no prospect."""
        began = time.monotonic()
        limit = 2 * self.connect_timeout
        failures, furthest = 0, self._resumable()
        while True:
            waited = 0.0 if self.answered else time.monotonic() - began
            try:
                self._attempt(limit - waited)
                return
            except _BrokenError as error:
                reason = str(error)
            size = self._size()
            failures = 1 if size > furthest else failures + 1
            furthest = max(furthest, size)
            pause = FIRST_PAUSE * 2 ** (failures - 1)
            hopeless = failures > (RETRIES_TO_CONTINUE if self.answered else RETRIES_TO_START)
            # A retry needs some time before the limit, or it cannot but fail.
            late = not self.answered and time.monotonic() - began + pause > 0.75 * limit
            if hopeless or late:
                raise self._unavailable(reason)
            time.sleep(pause)

    def _attempt(self, patience: float) -> None:
        """One request, to the end of the file unless something breaks."""
        note, offset = self._note(), self._resumable()
        headers = {"Accept-Encoding": "identity"}  # lengths and sums are those of the file itself
        if offset:
            headers |= {"Range": f"bytes={offset}-", "If-Range": note["validator"]}
        response, first = _open(self.url, headers, self.connect_timeout, patience)
        with response:
            status = response.status_code
            total: int | None
            if status == 416 and offset:
                total = self._total_when_unsatisfiable(response, offset)
            elif status in (200, 206):
                total = self._receive(response, first, offset if status == 206 else 0)
            else:
                answer = f"the server answered {status} {response.reason or ''}".rstrip()
                if status in (408, 429) or status >= 500:
                    raise _BrokenError(answer)
                raise self._unavailable(answer)
        self._finish(total)

    def _total_when_unsatisfiable(self, response: requests.Response, offset: int) -> int:
        """Length of the file when all of it was there already."""
        if response.headers.get("Content-Range", "").replace(" ", "") == f"bytes*/{offset}":
            return offset
        self._discard()
        raise _BrokenError("the server's file is another one than that which was begun")

    def _receive(self, response: requests.Response, first: bytes, offset: int) -> int | None:
        """Writes the body to the part from `offset`; gives the file's length where it is known."""
        length = response.headers.get("Content-Length")
        total = offset + int(length) if length and length.isdigit() else None
        if offset:
            span = re.match(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
            if span is None or int(span[1]) != offset:
                self._discard()
                raise _BrokenError("the server sent another range than was asked for")
            total = int(span[2]) if span[2] != "*" else total
        self.answered = self.answered or bool(first)
        try:
            with self.part.open("ab" if offset else "wb") as file:
                if not offset:
                    self._write_note(response)
                # Asked here, where an outdated part has just made room.
                if total is not None and total - offset > shutil.disk_usage(self.part.parent).free:
                    raise OSError(errno.ENOSPC, "found before writing")
                with self._progress(offset, total) as bar:
                    self._copy(first, response.raw, file, bar)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise self._full_disk(total) from None
        return total

    def _copy(self, first: bytes, raw: Any, file: BinaryIO, bar: tqdm) -> None:
        # read1 hands out what has come; read would lose it when the connection breaks.
        read = getattr(raw, "read1", raw.read)
        chunk = first
        while chunk:
            file.write(chunk)
            bar.update(len(chunk))
            try:
                chunk = read(_CHUNK)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise _BrokenError(f"the connection broke ({_reason(error)})") from None

    def _progress(self, offset: int, total: int | None) -> tqdm:
        watched = sys.stderr.isatty()
        if not watched:
            size = "" if total is None else f" ({total / 1e6:.1f} MB)"
            after = f", continuing at {offset / 1e6:.1f} MB" if offset else ""
            print(f"Downloading {self.url}{size} to {self.destination}{after}", file=sys.stderr)
        return tqdm(
            desc=self.label,
            total=total,
            initial=offset,
            unit="B",
            unit_scale=True,
            file=sys.stderr,
            disable=not watched,
        )

    def _finish(self, total: int | None) -> None:
        """Checks the part and gives it its final name."""
        size, md5 = self._size(), self._note().get("md5")
        if total is not None and size < total:
            raise _BrokenError(f"the server sent {size:,} of {total:,} bytes")
        fault = ""
        if total is not None and size > total:
            fault = f"{size:,} bytes instead of {total:,}"
        elif md5 and (found := _md5_of(self.part)) != md5:
            fault = f"their MD5 is {found}, the server's is {md5}"
        if fault:
            self._discard()
            raise self._unavailable(f"wrong bytes arrived ({fault}) and were deleted")
        os.replace(self.part, self.destination)
        self._discard()

    # The note beside the part: {"url", "validator", "md5"}.

    def _note(self) -> dict[str, Any]:
        try:
            note = json.loads(_beside(self.part, ".json").read_text())
        except (FileNotFoundError, ValueError):  # ValueError: the process died writing it
            return {}
        return note if isinstance(note, dict) and note.get("url") == self.url else {}

    def _write_note(self, response: requests.Response) -> None:
        validator = response.headers.get("ETag", "")
        if not validator or validator.startswith("W/"):  # If-Range allows no weak ETag
            validator = response.headers.get("Last-Modified", "")
        note = {"url": self.url, "validator": validator, "md5": _md5_header(response)}
        _beside(self.part, ".json").write_text(json.dumps(note))

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _resumable(self) -> int:
        """Bytes that the next request can skip; none without a way to tell a changed file."""
        return self._size() if self._note().get("validator") else 0

    def _discard(self) -> None:
        self.part.unlink(missing_ok=True)
        _beside(self.part, ".json").unlink(missing_ok=True)

    def _unavailable(self, reason: str) -> WeightsUnavailableError:
        kept = self._resumable() if self.part == _beside(self.destination, ".part") else 0
        again = f": {kept:,} bytes are kept in {self.part} and will be continued" if kept else ""
        return WeightsUnavailableError(
            f"Cannot download {self.url}: {reason}. Download it elsewhere and set "
            f"{WEIGHTS_VARIABLE}=/folder/that/holds/it, or call again{again}."
        )

    def _full_disk(self, total: int | None) -> WeightsUnavailableError:
        folder = self.part.parent
        needed = "more" if total is None else f"{total - self._size():,} bytes more"
        return WeightsUnavailableError(
            f"No space left in {folder} to download {self.url}: needs {needed}, "
            f"{shutil.disk_usage(folder).free:,} bytes are free. Free some space, or set "
            f"{CACHE_VARIABLE}=/folder/with/space."
        )
