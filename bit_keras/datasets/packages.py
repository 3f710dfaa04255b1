"""Which drawings the unpacked packages of `clipart` hold, of which class; nothing is decoded."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

OPENCLIPART_ROOT = "usr/share/openclipart/png"
EMOJI_ROOT = "img/google/64"

# Folders that the embedded set openclipart-mini was made of, as its README lists them: nothing of
# theirs is upstream, so that a transfer to that set is judged on classes never seen.
EMBEDDED_FOLDERS = {
    "animals/mammals",
    "animals/mammals/bears",
    "animals/mammals/big_cats",
    "animals/mammals/dogs",
    "animals/mammals/horses",
    "animals/mammals/housecats",
    "food/fruit",
    "people",
    "signs_and_symbols/flags/africa",
    "signs_and_symbols/flags/asia",
    "signs_and_symbols/flags/asia/china",
    "signs_and_symbols/map_symbols",
    "special/patterns",
    "tools",
    "transportation",
    "transportation/boating",
    "transportation/vehicles",
    "transportation/vehicles/hummers",
}
# 1,378 stars that a program drew, and what nobody has given a folder.
UNUSED_FOLDERS = ("shapes/stars", "unsorted")

_TONES = re.compile(r"-1f3f[b-f](?![0-9a-f])")
_GENDER_OR_WAY = re.compile(r"-200d-(2640|2642|27a1)(?![0-9a-f])")
_ADULT = re.compile(r"(?<![0-9a-f])1f46[89](?![0-9a-f])")  # man, woman; 1f9d1 is a person


@dataclass(frozen=True)
class Drawing:
    """An image file of a package.

    Attributes:
        path: the file.
        name: package and path, such as "openclipart/animals/birds/ara_parrot.png".
        folders: from the package to the folder it is in: ("openclipart", "animals", "birds").
        group: what drawings have in common that belong in one split.
    """

    path: Path
    name: str
    folders: tuple[str, ...]
    group: str


def series(stem: str) -> str:
    """The key that file names of one series share: the letters alone, without "bw" and "color".

    Example:
        >>> series("lemon_bw_02") == series("Lemon_01")
        True
    """
    letters = re.sub(r"[^a-z]", "", re.sub(r"_(bw|colou?r)(?=_|$)", "", stem.lower()))
    return letters or stem


def openclipart(root: Path, dropped: Counter[str]) -> Iterator[Drawing]:
    """The drawings of the unpacked `openclipart-png`, sorted.

    Symbolic links repeat drawings, of the embedded set's too; they are never followed.

    Args:
        root: the folder the package is in.
        dropped: takes the number of files left out by each rule.
    """
    top = root / OPENCLIPART_ROOT
    for path in sorted(top.rglob("*.png")):
        folder = path.parent.relative_to(top).as_posix()
        if path.is_symlink():
            dropped["symbolic link"] += 1
        elif folder in EMBEDDED_FOLDERS:
            dropped["folder of the embedded set"] += 1
        elif any(folder == unused or folder.startswith(f"{unused}/") for unused in UNUSED_FOLDERS):
            dropped["stars and unsorted"] += 1
        elif folder == ".":
            dropped["in no folder"] += 1
        else:
            folders = ("openclipart", *folder.split("/"))
            group = "/".join((*folders, series(path.stem)))
            yield Drawing(path, f"openclipart/{path.relative_to(top).as_posix()}", folders, group)


def base_code(code: str) -> str:
    """An emoji's code without skin tone, gender and direction: the same for all its variants.

    Example:
        >>> base_code("1f469-1f3fb-200d-1f692") == base_code("1f468-200d-1f692")
        True
    """
    plain = _GENDER_OR_WAY.sub("", _TONES.sub("", code.lower().replace("-fe0f", "")))
    return _ADULT.sub("1f9d1", plain)


def emoji(root: Path, dropped: Counter[str]) -> Iterator[Drawing]:
    """The emoji of the unpacked `emoji-datasource-google`, sorted by class and code.

    Args:
        root: the folder the package is in.
        dropped: takes the number of those that the table names and the package does not have.
    """
    table = root / "emoji.json"
    found = []
    for entry in json.loads(table.read_text(encoding="utf-8")) if table.is_file() else ():
        folders = ("emoji", _slug(entry["category"]), _slug(entry["subcategory"]))
        for variant in (entry, *entry.get("skin_variations", {}).values()):
            if not variant.get("has_img_google"):
                continue
            path = root / EMOJI_ROOT / Path(variant["image"]).name
            if path.is_symlink() or not path.is_file():
                dropped["emoji without image"] += 1
                continue
            group = f"emoji/{base_code(path.stem)}"
            found.append(Drawing(path, f"emoji/{path.name}", folders, group))
    yield from sorted(found, key=lambda drawing: (drawing.folders, drawing.name))


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
