"""Which files of a folder are examples of which class. Nothing is opened."""

from __future__ import annotations

import os
from pathlib import Path

from bit_keras.images import SkippedFiles

SPLIT_FOLDERS = {"train": "train", "val": "val", "validation": "val", "test": "test"}

_IMAGES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".dib", ".webp"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
}
_TEXTS = {".txt", ".csv", ".tsv", ".json", ".md", ".rst", ".xml", ".yaml", ".yml", ".html"}
_OTHER_CLUTTER = {"readme", "license", "licence", "copying", "thumbs.db", "desktop.ini"}

# class → files, as paths from the data set's folder with "/" between
Classes = dict[str, list[str]]


def scan(root: Path, skipped: SkippedFiles) -> dict[str | None, Classes]:
    """The files of every class of every split, all sorted by name.

    Args:
        root: the data set's folder.
        skipped: takes the files that are neither images nor ignored.

    Returns:
        Split ("train", "val", "test", in this order) → class → files. The split is None when
        `root` holds the class folders itself.

    Raises:
        ValueError: when split folders stand beside other folders, or "val" beside "validation".
    """
    folders = _folders(root, "", skipped)
    splits = {
        SPLIT_FOLDERS[folder]: folder
        for folder in sorted(set(folders) & set(SPLIT_FOLDERS), key=list(SPLIT_FOLDERS).index)
        if _folders(root / folder, f"{folder}/", SkippedFiles())
    }
    if not splits:
        return {None: {c: _files(root / c, c, skipped) for c in folders}}
    if len(splits) < len(folders):
        raise ValueError(
            f"{root} must hold either class folders, or train, val (or validation) and test "
            f"folders and no others. Received: {', '.join(folders)}"
        )
    return {
        split: {
            c: _files(root / folder / c, f"{folder}/{c}", skipped)
            for c in _folders(root / folder, f"{folder}/", skipped)
        }
        for split, folder in splits.items()
    }


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, sorted, without hidden entries such as .DS_Store and ._copy.jpg."""
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)


def _folders(folder: Path, prefix: str, skipped: SkippedFiles) -> list[str]:
    """Names of the sub-folders. A link to a folder counts, unless it leads upwards: a loop."""
    names = []
    here = Path(os.path.realpath(folder))
    for entry in _entries(folder):
        if not os.path.isdir(entry.path):  # the entry's own method raises on a link to itself
            reason = _unusable(entry)
            if reason != "clutter":
                skipped.add(prefix + entry.name, reason or "not in a class folder")
        elif here.is_relative_to(os.path.realpath(entry.path)):
            skipped.add(prefix + entry.name, "a link to a folder above it")
        else:
            names.append(entry.name)
    return names


def _files(folder: Path, relative: str, skipped: SkippedFiles) -> list[str]:
    """The image files at any depth. Links to folders are not followed, they could be loops."""
    found = []
    for entry in _entries(folder):
        name = f"{relative}/{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            found += _files(Path(entry.path), name, skipped)
            continue
        linked = entry.is_symlink() and os.path.isdir(entry.path)
        reason = "a link to a folder, not followed" if linked else _unusable(entry)
        if reason is None:
            found.append(name)
        elif reason != "clutter":
            skipped.add(name, reason)
    return found


def _unusable(entry: os.DirEntry[str]) -> str | None:
    """None for an image file, "clutter" for what is commonly beside images, else why not."""
    name, suffix = os.path.splitext(entry.name.lower())
    if suffix in _IMAGES:
        regular = entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path)
        return None if regular else "a broken link or a special file"
    clutter = suffix in _TEXTS or name in _OTHER_CLUTTER or name + suffix in _OTHER_CLUTTER
    return "clutter" if clutter else "not an image file"
