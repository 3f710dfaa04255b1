"""`folder:PATH`: image files in class sub-folders."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from bit_keras.images import ImageError, SkippedFiles, decode_image
from bit_keras.sources.base import IndexedSource, original_or_new, parallel
from bit_keras.sources.calls import countable
from bit_keras.sources.scan import Classes, scan
from bit_keras.sources.splits import stratified_split

TEST_FRACTION = 0.2  # where the folder has no split of its own
MAX_FILE_BYTES = 256 * 2**20


class FolderSource(IndexedSource):
    """Images in class sub-folders, at any depth below them; see `load_source`.

    Hidden files and texts beside the images are ignored; other files that are no images, broken
    links and links to folders are noted in `skipped`.

    Args:
        path: the folder. It holds class folders; or train/, val/ (or validation/) and test/, as
            many as there are, with the same class folders in each.
        name: for messages; "folder:PATH" when left out.
        seed: of the stratified split in train and test, for a folder without split folders. It
            depends on the files' names alone, not on their order on the disk.
        strict: raise on the first unusable file.

    Raises:
        FileNotFoundError: when there is no such folder.
        ValueError: for a folder with no images, fewer than two classes, or splits with different
            classes.
        ImageError: with `strict`, for a file that is no image.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        name: str | None = None,
        seed: int = 0,
        strict: bool = False,
    ) -> None:
        self._root = Path(path).expanduser()
        name = name or f"folder:{path}"
        if not self._root.is_dir():
            raise FileNotFoundError(f"There is no folder {str(self._root)!r}. Received: {name!r}")
        skipped = SkippedFiles()
        splits = scan(self._root, skipped)
        if strict and len(skipped):
            raise ImageError(f"In {name}: {skipped.summary()}")
        class_names = _common_classes(name, splits)
        if None in splits:
            self._files, labels = _split_flat(splits[None], seed)
        else:
            tables = {str(split): _table(classes) for split, classes in splits.items()}
            self._files = {split: files for split, (files, _) in tables.items()}
            labels = {split: y for split, (_, y) in tables.items()}
        super().__init__(name, class_names, labels, strict=strict)
        self.skipped = skipped

    def read_image(self, split: str, index: int) -> np.ndarray:
        """The image of a file, uint8 [height, width, 3]; see `IndexedSource`."""
        return decode_image(self._read_file(split, index))

    def encoded(
        self, split: str, indices: ArrayLike | None = None, *, quality: int | None = None
    ) -> tf.data.Dataset:
        """The files themselves where they are JPEG or PNG; see `Source.encoded`."""
        read = countable(lambda index: self._read_file(split, int(index)))

        def with_file(example: dict[str, Any]) -> dict[str, Any]:
            data = tf.numpy_function(read, [example["index"]], tf.string)
            data = original_or_new(tf.ensure_shape(data, []), example["image"], quality)
            return {"encoded": data, "label": example["label"], "index": example["index"]}

        # Decoded before, so that only whole images come so far.
        return parallel(self.examples(split, indices), with_file)

    def _read_file(self, split: str, index: int) -> bytes:
        path = self._root / self._files[split][index]
        try:
            size = path.stat().st_size
            if size > MAX_FILE_BYTES:
                limit = MAX_FILE_BYTES / 1e6
                raise ImageError(f"a file of {size / 1e6:.0f} MB, limit {limit:.0f}")
            return path.read_bytes()
        except OSError as error:
            raise ImageError(f"cannot be read: {error.strerror or error}") from error

    def example_name(self, split: str, index: int) -> str:
        """The file's path from the data set's folder."""
        return self._files[split][index]


def _table(classes: Classes) -> tuple[list[str], np.ndarray]:
    """All files of all classes, and their labels."""
    files = [name for names in classes.values() for name in names]
    labels = np.repeat(np.arange(len(classes)), [len(names) for names in classes.values()])
    return files, labels


def _split_flat(classes: Classes, seed: int) -> tuple[dict[str, list[str]], dict[str, np.ndarray]]:
    files, labels = _table(classes)
    parts = zip(("train", "test"), stratified_split(labels, TEST_FRACTION, seed), strict=True)
    chosen = {split: indices for split, indices in parts if len(indices)}
    return (
        {split: [files[i] for i in indices] for split, indices in chosen.items()},
        {split: labels[indices] for split, indices in chosen.items()},
    )


def _common_classes(name: str, splits: dict[str | None, Classes]) -> list[str]:
    """The class names, after checking that they are usable and the same in every split."""
    (first, classes), *others = splits.items()
    names = list(classes)
    if not any(classes.values()):
        raise ValueError(f"{name} has no images in class sub-folders: PATH/CLASS/IMAGE.png")
    if len(names) < 2:
        raise ValueError(f"{name} has one class only, at least two are needed. Received: {names}")
    empty = [c for c, files in classes.items() if not files]
    if empty:
        raise ValueError(f"{name} has class folders without images: {', '.join(empty)}")
    for split, theirs in others:
        missing, extra = sorted(set(names) - set(theirs)), sorted(set(theirs) - set(names))
        if missing or extra:
            raise ValueError(
                f"{name}: the classes of {split!r} differ from those of {first!r}. "
                f"Missing: {', '.join(missing) or 'none'}. Extra: {', '.join(extra) or 'none'}"
            )
    return names
