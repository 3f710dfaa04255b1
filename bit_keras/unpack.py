"""Unpacking of archives that nobody vouches for: plain files and folders only, within limits."""

from __future__ import annotations

import shutil
import tarfile
from os import PathLike
from pathlib import Path, PurePosixPath

MAX_BYTES = 8 << 30  # unpacked; the largest module, R152x4 with 21,843 classes, has 4.4 GB
MAX_FILES = 1000
_CHUNK = 1 << 20


class ArchiveError(ValueError):
    """An archive that is damaged, or that holds what no module needs."""


def unpack(
    archive: str | PathLike[str],
    folder: str | PathLike[str],
    *,
    max_bytes: int = MAX_BYTES,
    max_files: int = MAX_FILES,
) -> None:
    """Unpacks a .tar or .tar.gz into a folder, reading it once.

    Refused are absolute names, names with "..", a drive or a backslash, links, devices, pipes,
    names that occur twice, and more files or bytes than allowed, whatever the headers say. Dates,
    owners and modes are not taken over.

    Args:
        archive: the file.
        folder: an empty folder. After an error it may hold a part.
        max_bytes: of all files together.
        max_files: files and folders together.

    Raises:
        ArchiveError: for a damaged archive and for anything refused; the member is named.
        OSError: when it cannot be read or written.

    Example:
        >>> unpack("1.tar.gz", "module")  # doctest: +SKIP
    """
    folder, count, left = Path(folder), 0, max_bytes
    try:
        with tarfile.open(archive, "r|*") as tar:
            for member in tar:
                count += 1
                if count > max_files:
                    raise ArchiveError(f"{archive} has more than {max_files:,} files.")
                target = folder / _safe_name(member, archive)
                left -= member.size
                if left < 0:
                    raise ArchiveError(
                        f"{archive} unpacks to more than {max_bytes:,} bytes ({member.name!r})."
                    )
                _extract(tar, member, target, archive)
    except (tarfile.TarError, EOFError, ValueError, OSError) as error:
        # OSError with an errno is the disk's; gzip's and zlib's have none.
        if isinstance(error, ArchiveError) or getattr(error, "errno", None) is not None:
            raise
        raise ArchiveError(f"{archive} is damaged: {error}") from error
    except Exception as error:  # zlib.error and lzma.LZMAError are plain exceptions
        raise ArchiveError(f"{archive} is damaged: {error}") from error


def _safe_name(member: tarfile.TarInfo, archive: str | PathLike[str]) -> PurePosixPath:
    name = PurePosixPath(member.name)
    reason = ""
    if member.name.startswith("/") or "\\" in member.name or ":" in member.name:
        reason = "an absolute or foreign name"
    elif ".." in name.parts:
        reason = "a name that leads out of the folder"
    elif "\0" in member.name:
        reason = "a name with a null byte"
    elif not (member.isreg() or member.isdir()):
        reason = "a link, device or pipe"
    if reason:
        raise ArchiveError(f"{archive} holds {member.name!r}, {reason}. Nothing of it is used.")
    return name


def _extract(
    tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path, archive: str | PathLike[str]
) -> None:
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    content = tar.extractfile(member)
    try:
        with target.open("xb") as file:
            shutil.copyfileobj(content, file, _CHUNK)  # type: ignore[arg-type]
    except FileExistsError:
        raise ArchiveError(f"{archive} holds {member.name!r} twice.") from None
    if target.stat().st_size != member.size:
        raise ArchiveError(f"{archive} is damaged: {member.name!r} ends early.")
