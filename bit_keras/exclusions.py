"""Exclusion lists: upstream examples to leave out of pre-training, as a text file."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from pathlib import Path

import numpy as np

from bit_keras.sources import Source


def exclusion_list(places: Iterable[tuple[str, int, str]], upstream: Source) -> str:
    """The text of an exclusion list; a header says of which set, in which state, it is.

    Args:
        places: split, index and name of the examples to leave out; repetitions do no harm.
        upstream: the set they are in.
    """
    splits = ", ".join(f"{split}={count}" for split, count in upstream.splits.items())
    lines = [
        "# Upstream examples that nearly equal a downstream example; leave them out.",
        f"# upstream: {upstream.name}",
        f"# splits: {splits}",
        "# columns: split, index, name",
    ]
    lines += ["\t".join(map(str, place)) for place in sorted(set(places))]
    return "\n".join(lines) + "\n"


def read_exclusions(path: str | PathLike[str], upstream: Source) -> dict[str, np.ndarray]:
    """The examples of an upstream set that an exclusion list names.

    Args:
        path: `exclude.txt`, as `bit-keras data dedup` writes it.
        upstream: the set that the list was made of, unchanged.

    Returns:
        Split → int64 indices, sorted; splits without any are missing.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for a file that is no such list, or the list of another set or state of it.

    Example:
        >>> source = load_source("tfds:clipart")  # doctest: +SKIP
        >>> out = read_exclusions("dedup/exclude.txt", source)["train"]  # doctest: +SKIP
        >>> kept = np.setdiff1d(np.arange(source.splits["train"]), out)  # doctest: +SKIP
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no exclusion list {str(path)!r}.")
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    head = [line for line in lines if line.startswith("# ")]
    expected = [line for line in exclusion_list([], upstream).splitlines() if line.startswith("# ")]
    if head != expected:
        told = "; ".join(line[2:] for line in head[1:3]) or "no header"
        raise ValueError(
            f"{path} is not an exclusion list of {upstream.name} as it is now. Received: {told}. "
            f"Expected: {'; '.join(line[2:] for line in expected[1:3])}. "
            "Make it anew with `bit-keras data dedup`."
        )
    found: dict[str, set[int]] = {}
    for line in lines:
        if line and not line.startswith("#"):
            split, index, *_ = [*line.split("\t"), "", ""]
            if split not in upstream.splits or not index.isdecimal():
                raise ValueError(f"{path}: a line must be split, index, name. Received: {line!r}")
            found.setdefault(split, set()).add(int(index))
    return {split: np.array(sorted(indices), np.int64) for split, indices in found.items()}
