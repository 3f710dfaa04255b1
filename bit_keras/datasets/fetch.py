"""Fetches the packages that the builders read: `python -m bit_keras.datasets.fetch NAME DIR`.

The ordinary clients download and verify them, `apt-get download` and `npm pack`; nothing is
installed. What is needed of a package is unpacked to DIR/PACKAGE, regular files only.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import IO, Any

from bit_keras.files import replacing

CLIENT_SECONDS = 1800
MAX_UNPACKED = 2 * 2**30  # bytes of one package; the largest has a tenth of it


class FetchError(OSError):
    """A package that cannot be fetched or unpacked."""


@dataclass(frozen=True)
class Package:
    """A package and what is taken from it.

    Attributes:
        name: of the package and of the folder it is unpacked to.
        kind: "deb" or "npm".
        version: what is asked for; "" takes the one that the distribution has.
        wanted: patterns of the paths to unpack.
        licence: for the message.
    """

    name: str
    kind: str
    version: str
    wanted: tuple[str, ...]
    licence: str


OPENCLIPART = Package(
    "openclipart-png", "deb", "", ("usr/share/*",), "public domain dedication"
)  # fmt: skip
EMOJI = Package(
    "emoji-datasource-google",
    "npm",
    "16.0.0",
    ("img/google/64/*", "emoji.json", "LICENSE", "README.md", "package.json"),
    "images Apache-2.0, data MIT",
)
STAMPS = Package("tuxpaint-stamps-default", "deb", "", ("usr/share/*",), "GPL-2")

PACKAGES = {"clipart": (OPENCLIPART, EMOJI), "stamps": (STAMPS,)}


def manual_commands(dataset: str) -> str:
    """The commands that do by hand what `fetch` does, for a builder's instructions.

    Example:
        >>> print(manual_commands("stamps"))
        apt-get download tuxpaint-stamps-default
        dpkg-deb -x tuxpaint-stamps-default_*.deb tuxpaint-stamps-default
    """
    lines = []
    for package in PACKAGES[dataset]:
        name = package.name
        if package.kind == "deb":
            lines += [f"apt-get download {name}", f"dpkg-deb -x {name}_*.deb {name}"]
        else:
            lines += [
                f"npm pack {name}@{package.version}",
                f"mkdir {name}",
                f"tar -xzf {name}-{package.version}.tgz -C {name} --strip-components=1",
            ]
    return "\n".join(lines)


def fetch(dataset: str, directory: str | Path) -> list[Path]:
    """Fetches and unpacks the packages of a data set; those that are there already are kept.

    Args:
        dataset: "clipart" or "stamps".
        directory: where to put a folder for each package: the builder's manual_dir.

    Returns:
        The packages' folders.

    Raises:
        ValueError: for another data set.
        FetchError: when a client is missing or fails, or a package holds what must not be unpacked.

    Example:
        >>> fetch("stamps", "/tmp/manual")  # doctest: +SKIP
        [PosixPath('/tmp/manual/tuxpaint-stamps-default')]
    """
    if dataset not in PACKAGES:
        raise ValueError(f"Unknown data set. Received: {dataset!r}. Known: {', '.join(PACKAGES)}")
    folders = []
    for package in PACKAGES[dataset]:
        folder = Path(directory) / package.name
        folders.append(folder)
        if folder.is_dir():
            continue
        with tempfile.TemporaryDirectory() as room, replacing(folder, folder=True) as partial:
            unpack(_download(package, Path(room)), partial, package.wanted)
    return folders


def _download(package: Package, room: Path) -> Path:
    """The package's archive in `room`, a tar file."""
    if package.kind == "npm":
        _client(["npm", "pack", f"{package.name}@{package.version}"], room)
        return _only(room.glob("*.tgz"), package)
    if shutil.which("dpkg-deb") is None:
        raise FetchError(_missing("dpkg-deb"))
    hint = "`apt-get update` as root makes the list of packages new."
    _client(["apt-get", "download", package.name], room, hint)
    archive = room / "data.tar"
    with archive.open("wb") as stream:
        deb = str(_only(room.glob("*.deb"), package))
        _client(["dpkg-deb", "--fsys-tarfile", deb], room, stdout=stream)
    return archive


def _only(found: Any, package: Package) -> Path:
    archives = list(found)
    if len(archives) != 1:
        raise FetchError(f"The client left {len(archives)} archives of {package.name}, not one.")
    return archives[0]


def _missing(program: str) -> str:
    source = "npm comes with Node.js" if program == "npm" else "Debian and Ubuntu have it"
    return (
        f"The program {program!r} is needed and was not found. {source}: install it, or fetch "
        "the packages on a machine that has it and copy the folders here."
    )


def _client(
    command: list[str], folder: Path, hint: str = "", stdout: IO[bytes] | None = None
) -> None:
    """Runs a program in `folder`.

    Raises:
        FetchError: when it is missing, too slow or fails; with its last words.
    """
    if shutil.which(command[0]) is None:
        raise FetchError(_missing(command[0]))
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=stdout or subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=CLIENT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise FetchError(f"`{' '.join(command)}` took over {CLIENT_SECONDS} s.") from None
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip().splitlines()[-3:]
        told = f"`{' '.join(command)}` failed with status {done.returncode}: {' / '.join(words)}"
        raise FetchError(f"{told} {hint}".rstrip())


def unpack(archive: Path, folder: Path, wanted: Sequence[str] = ("*",)) -> int:
    """Unpacks the wanted regular files of a tar archive.

    Links and special files are left out: no data set here needs them. The common first folder
    of an npm package, `package/`, is taken off.

    Args:
        archive: a tar file, compressed or not.
        folder: where to; it exists.
        wanted: patterns of paths.

    Returns:
        The number of files.

    Raises:
        FetchError: for a path that is absolute or holds "..", for more than `MAX_UNPACKED`
            bytes, for a damaged archive, and when nothing is wanted of it.
    """
    count = total = 0
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                path = _safe(member.name, archive)
                if not member.isreg() or not any(fnmatchcase(str(path), w) for w in wanted):
                    continue
                total += member.size
                if total > MAX_UNPACKED:
                    raise FetchError(f"{archive.name} unpacks to over {MAX_UNPACKED / 1e9:.1f} GB.")
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                content = tar.extractfile(member)
                assert content is not None  # a regular file has one
                with content, target.open("wb") as stream:
                    shutil.copyfileobj(content, stream)
                count += 1
    except (tarfile.TarError, EOFError) as error:
        raise FetchError(f"{archive.name} is damaged: {error}") from error
    if not count:
        raise FetchError(f"{archive.name} has none of {', '.join(wanted)}: another layout?")
    return count


def _safe(name: str, archive: Path) -> PurePosixPath:
    """The path of an archive's member below the folder it is unpacked to."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise FetchError(f"{archive.name} holds the path {name!r}, which leads out of the folder.")
    return PurePosixPath(*path.parts[1:]) if path.parts[:1] == ("package",) else path


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m bit_keras.datasets.fetch", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("dataset", choices=list(PACKAGES))
    parser.add_argument(
        "directory", metavar="DIR", help="for tfds:NAME, $TFDS_DATA_DIR/downloads/manual"
    )
    options = parser.parse_args(arguments)
    for package in PACKAGES[options.dataset]:
        print(f"{package.name}: {package.licence}", flush=True)
    try:
        folders = fetch(options.dataset, options.directory)
    except OSError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    print("\n".join(map(str, folders)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
