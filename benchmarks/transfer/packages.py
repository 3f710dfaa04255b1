"""Real data out of packages: the ordinary clients fetch them, single files are read from them.

Nothing is installed. A file is known by its checksum, whatever version of the package it is in.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from bit_keras.files import replacing

CLIENT_SECONDS = 900


class PackageError(OSError):
    """A package that cannot be fetched, or does not hold what is expected."""


@dataclass(frozen=True)
class PackagedFile:
    """A file in a package.

    Attributes:
        package: name of the package.
        kind: "pip" for a wheel, "deb" for a Debian package.
        path: of the file in it.
        sha256: its checksum, hexadecimal.
    """

    package: str
    kind: str
    path: str
    sha256: str

    @property
    def command(self) -> list[str]:
        """What fetches the package to the folder it is run in."""
        if self.kind == "deb":
            return ["apt-get", "download", self.package]
        wheel = ["--no-deps", "--only-binary=:all:", self.package]
        return [sys.executable, "-m", "pip", "download", "--quiet", *wheel]


def _archive(file: PackagedFile, folder: Path) -> Path | None:
    """The package in a folder of downloads, if it is there."""
    names = {
        "deb": f"{file.package}_*.deb",
        "pip": f"{file.package.replace('-', '_')}-*.whl",
    }
    return next(iter(sorted(folder.glob(names[file.kind]))), None)


def fetch(file: PackagedFile, folder: Path) -> Path:
    """The package that holds a file, downloaded to `folder` if it is not there yet.

    Raises:
        PackageError: when the client is missing, fails or leaves nothing.
    """
    if found := _archive(file, folder):
        return found
    folder.mkdir(parents=True, exist_ok=True)
    by_hand = f"Run `{' '.join(file.command)}` in {folder} to see why, or put the package there."
    if shutil.which(file.command[0]) is None:
        raise PackageError(f"The program {file.command[0]!r} was not found. {by_hand}")
    with tempfile.TemporaryDirectory(dir=folder) as room:
        try:
            subprocess.run(file.command, cwd=room, check=True, timeout=CLIENT_SECONDS)
        except subprocess.SubprocessError as error:
            raise PackageError(f"{file.package} could not be fetched: {error}. {by_hand}") from None
        archive = _archive(file, Path(room))
        if archive is None:
            raise PackageError(f"The client left no archive of {file.package}. {by_hand}")
        with replacing(folder / archive.name) as partial:
            shutil.move(archive, partial)
    return folder / archive.name


def _from_deb(archive: Path, path: str) -> bytes:
    with tempfile.TemporaryFile() as stream:
        subprocess.run(["dpkg-deb", "--fsys-tarfile", archive], stdout=stream, check=True)
        stream.seek(0)
        with tarfile.open(fileobj=stream) as tar:
            content = tar.extractfile(f"./{path}")
            if content is None:
                raise KeyError(path)
            return content.read()


def read(file: PackagedFile, folder: Path) -> bytes:
    """The content of a file in a package, checked.

    Args:
        file: which.
        folder: where packages are kept, and downloaded to when they are not there.

    Raises:
        PackageError: when the package cannot be fetched or is damaged, or the file is missing in it
            or another one than expected.
    """
    archive = fetch(file, folder)
    try:
        if file.kind == "deb":
            content = _from_deb(archive, file.path)
        else:
            with zipfile.ZipFile(archive) as wheel:
                content = wheel.read(file.path)
    except (KeyError, zipfile.BadZipFile, tarfile.TarError, subprocess.SubprocessError) as error:
        raise PackageError(
            f"{file.path} cannot be read from {archive}: {error}. Delete the package and run again."
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != file.sha256:
        raise PackageError(
            f"{file.path} in {archive} is another file than the one measured. "
            f"Expected SHA-256: {file.sha256}. Received: {found}."
        )
    return content
