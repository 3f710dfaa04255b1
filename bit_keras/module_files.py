"""From a module's handle to its folder on this machine: found, or downloaded, checked, unpacked.

Modules from archives lie in the cache under the SHA-256 of their archive, so that one which is
there is the right one, whoever put it there.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import requests

from bit_keras.download import WeightsUnavailableError, fetch
from bit_keras.files import replacing, sha256_of
from bit_keras.pretrained import cache_dir
from bit_keras.unpack import ArchiveError, unpack

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

HUB_VARIABLE = "BIT_KERAS_HUB"
SAVED_MODEL = "saved_model.pb"
_ENDINGS = (".tar.gz", ".tgz", ".tar")
_SECONDS = 8.0  # for the small file with the checksum
_MAX_CHECKSUM_FILE = 4096


class ModuleUnavailableError(OSError):
    """A module that is not on this machine and cannot be downloaded."""


class ChecksumError(ValueError):
    """An archive that is not the one its checksum speaks of, or that has none."""


@dataclass(frozen=True)
class Found:
    """A module's folder, and the SHA-256 of the archive it came from, if it came from one."""

    folder: Path
    sha256: str | None


def find_module(handle: str | os.PathLike[str], sha256: str | None = None) -> Found:
    """Finds a module and, where it is an archive or an address, unpacks it into the cache.

    Args:
        handle: a folder, an archive, an address, or a handle below $BIT_KERAS_HUB, as in
            `bit_keras.load_module`.
        sha256: of the archive, in hexadecimal; when left out, what stands beside it in
            NAME.tar.gz.sha256.

    Raises:
        FileNotFoundError: the handle is nothing of the above.
        ModuleUnavailableError: (an OSError) the server cannot be reached or has no such module.
        ChecksumError: (a ValueError) the archive is not the one expected, or has no checksum.
        ArchiveError: (a ValueError) the archive holds no module, or what is unsafe to unpack.
    """
    if sha256 is not None:
        sha256 = _digest_in(sha256, "`sha256`")
        if (cached := _cached(sha256)).is_dir():
            return Found(cached, sha256)
    text = os.fspath(handle)
    if _is_url(text):
        return _from_url(text, sha256)
    path = Path(text).expanduser()
    if path.exists():
        return _from_path(path, sha256)
    if not (hub := os.environ.get(HUB_VARIABLE)):
        raise _nothing(text, f"{HUB_VARIABLE} is not set")
    if ".." in Path(text).parts or Path(text).is_absolute():
        raise _nothing(text, f"it does not lie below {HUB_VARIABLE}={hub}")
    if _is_url(hub):
        return _from_url(f"{hub.rstrip('/')}/{text}", sha256)
    path = Path(hub).expanduser() / text
    for candidate in (path, path.with_name(f"{path.name}.tar.gz")):
        if candidate.exists():
            return _from_path(candidate, sha256)
    raise _nothing(text, f"nor is there {path} ({HUB_VARIABLE}={hub})")


def _nothing(handle: str, why: str) -> FileNotFoundError:
    return FileNotFoundError(
        f"There is no module {handle!r}: no such file or folder here, and {why}. Give the folder "
        "of a module, its .tar.gz, its address (https://HOST/bit/xs-r26x0.5/1), or set "
        f"{HUB_VARIABLE} to the folder or address of a collection."
    )


def _is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def _cached(sha256: str) -> Path:
    return cache_dir() / "modules" / sha256


def _digest_in(text: str, where: str) -> str:
    """The SHA-256 at the beginning of a text such as `sha256sum` writes."""
    first = (text.split() or [""])[0].lower()
    if not re.fullmatch(r"[0-9a-f]{64}", first):
        raise ChecksumError(
            f"{where} must be a SHA-256, 64 hexadecimal digits. Received: {text[:80]!r}"
        )
    return first


def _check(path: Path, sha256: str, name: str) -> None:
    found = sha256_of(path)
    if found != sha256:
        raise ChecksumError(
            f"{name} has the SHA-256 {found}, not {sha256}: it was damaged or exchanged, and is "
            "not used."
        )


def _no_checksum(name: str, where: str, found: str) -> ChecksumError:
    return ChecksumError(
        f"{name} has no checksum ({where}). If you trust it, pin it: "
        f"load_module(..., sha256='{found}')"
    )


def _from_path(path: Path, sha256: str | None) -> Found:
    if path.is_dir():
        if sha256 is not None:
            raise ChecksumError(
                f"`sha256` is that of an archive; {path} is a folder. Give its .tar.gz, or leave "
                "`sha256` out."
            )
        if not (path / SAVED_MODEL).is_file():
            raise FileNotFoundError(f"{path} is no module: it has no {SAVED_MODEL}.")
        return Found(path, None)
    if sha256 is None:
        beside = path.with_name(f"{path.name}.sha256")
        if not beside.is_file():
            raise _no_checksum(str(path), f"there is no {beside}", sha256_of(path))
        sha256 = _digest_in(beside.read_text(), str(beside))
    with _turn(sha256):
        if not _cached(sha256).is_dir():
            _check(path, sha256, str(path))
            _unpack_into_cache(path, sha256)
    return Found(_cached(sha256), sha256)


def _addresses(url: str) -> tuple[str, str]:
    """Addresses of the archive, by TF-Hub's protocol, and of its checksum."""
    scheme, host, path, _, _ = urlsplit(url)
    path = path.rstrip("/")
    if path.endswith(_ENDINGS):
        plain = urlunsplit((scheme, host, path, "", ""))
        return plain, f"{plain}.sha256"
    checksum = urlunsplit((scheme, host, f"{path}.tar.gz.sha256", "", ""))
    return urlunsplit((scheme, host, path, "tf-hub-format=compressed", "")), checksum


def _from_url(url: str, sha256: str | None) -> Found:
    archive_url, checksum_url = _addresses(url)
    if sha256 is None:
        sha256 = _published_checksum(url, archive_url, checksum_url)
    with _turn(sha256):
        if not _cached(sha256).is_dir():
            archive = _cached(sha256).with_name(f"{sha256}.tar.gz")
            try:
                _download(archive_url, archive)
                _check(archive, sha256, archive_url)
                _unpack_into_cache(archive, sha256)
            finally:
                archive.unlink(missing_ok=True)
    return Found(_cached(sha256), sha256)


def _published_checksum(url: str, archive_url: str, checksum_url: str) -> str:
    """What the server says, or what it said when the module was loaded before."""
    name = hashlib.sha256(url.encode()).hexdigest()
    note = cache_dir() / "modules" / "addresses" / name
    try:
        with requests.get(checksum_url, timeout=_SECONDS, stream=True) as response:
            if response.status_code == 200:
                text = response.raw.read(_MAX_CHECKSUM_FILE, decode_content=True)
                digest = _digest_in(text.decode("latin-1"), checksum_url)
                with replacing(note) as partial:
                    partial.write_text(f"{digest}  {url}\n")
                return digest
            answer = f"{response.status_code} {response.reason}".strip()
    except requests.RequestException as error:
        if note.is_file() and _cached(digest := _digest_in(note.read_text(), str(note))).is_dir():
            print(
                f"{urlsplit(url).netloc} does not answer: {url} as loaded before.", file=sys.stderr
            )
            return digest
        raise ModuleUnavailableError(
            f"Cannot load {url}: {urlsplit(url).netloc} does not answer ({type(error).__name__}). "
            "Download the .tar.gz and its .sha256 elsewhere and give their path."
        ) from error
    raise ModuleUnavailableError(
        f"Cannot load {url}: {checksum_url} answered {answer}. Check the address. If the server "
        f"has the module ({archive_url}) but no checksums, pass the archive's: "
        "load_module(..., sha256=…)"
    )


def _download(url: str, archive: Path) -> None:
    try:
        fetch(url, archive, label=urlsplit(url).path)
    except WeightsUnavailableError as error:
        # Its advice is about weights.
        reason = str(error).partition(". Download")[0].partition(". Set ")[0]
        raise ModuleUnavailableError(
            f"{reason}. Download the archive elsewhere and give its path."
        ) from error


@contextlib.contextmanager
def _turn(sha256: str) -> Iterator[None]:
    """One process at a time for a module, where files can be locked."""
    folder = _cached(sha256).parent
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{sha256}.turn").open("w") as lock:
        if fcntl is not None:
            # Where there are no locks, both unpack, and the first rename counts.
            with contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _unpack_into_cache(archive: Path, sha256: str) -> None:
    final = _cached(sha256)
    room = Path(tempfile.mkdtemp(prefix=f".{sha256}.", suffix=".partial", dir=final.parent))
    try:
        folder = room / "module"
        folder.mkdir()
        unpack(archive, folder)
        if not (folder / SAVED_MODEL).is_file():
            raise ArchiveError(f"{archive} holds no module: it has no {SAVED_MODEL}.")
        try:
            os.rename(folder, final)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) and not final.is_dir():
                raise
    finally:
        shutil.rmtree(room, ignore_errors=True)
