"""Archives whose bytes depend on the files' contents and names only, and their checksums."""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path
from typing import BinaryIO

from bit_keras.files import sha256_of

_CHUNK = 1 << 20


def write_archive(folder: Path, path: Path) -> None:
    """Writes the files of a folder as a .tar.gz: sorted, without dates, owners and modes.

    Members are named from the folder on ("saved_model.pb", "variables/…"), as TF-Hub's are.
    """
    with (
        path.open("wb") as file,
        gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for source in sorted(folder.rglob("*")):
            member = tarfile.TarInfo(source.relative_to(folder).as_posix())  # dated 1970
            if source.is_dir():
                member.type, member.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(member)
            else:
                member.size = source.stat().st_size
                with source.open("rb") as content:
                    tar.addfile(member, content)


def write_checksum(archive: Path, path: Path) -> None:
    """Writes the archive's checksum in the format of `sha256sum --check`."""
    path.write_text(f"{sha256_of(archive)}  {archive.name}\n")


def checksum_holds(archive: Path, path: Path) -> bool:
    """Whether the archive is the one whose checksum the file holds."""
    return path.read_text().split()[:1] == [sha256_of(archive)]


def unpacked_equals(archive: Path, folder: Path) -> bool:
    """Whether a folder holds exactly the files of an archive."""
    names = set()
    with tarfile.open(archive) as tar:
        for member in tar:
            if not member.isreg():
                continue
            names.add(member.name)
            path, content = folder / member.name, tar.extractfile(member)
            if content is None or not path.is_file() or path.stat().st_size != member.size:
                return False
            with path.open("rb") as file:
                if not _same(content, file):  # type: ignore[arg-type]
                    return False
    return names == {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()
    }


def _same(one: BinaryIO, other: BinaryIO) -> bool:
    while True:
        a, b = one.read(_CHUNK), other.read(_CHUNK)
        if a != b:
            return False
        if not a:
            return True
