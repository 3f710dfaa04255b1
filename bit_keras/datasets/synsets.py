"""Synsets of WordNet: lists of classes and is-a relations, as ImageNet publishes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def read_labels(path: Any) -> list[str]:
    """The classes of a labels.txt, one a line, in its order.

    Args:
        path: a `pathlib.Path` or `epath.Path`.

    Raises:
        ValueError: when it is empty or names a class twice.
    """
    names = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
    twice = sorted({name for name in names if names.count(name) > 1}) if _repeats(names) else []
    if not names or twice:
        raise ValueError(
            f"{path} must have one class a line, each once. Received: {len(names)} lines"
            + (f", twice: {', '.join(twice[:5])}" if twice else "")
        )
    return names


def _repeats(names: list[str]) -> bool:
    return len(set(names)) < len(names)


def read_is_a(path: Any) -> dict[str, tuple[str, ...]]:
    """The direct hypernyms of each synset, from lines "PARENT CHILD" (wordnet.is_a.txt).

    Raises:
        ValueError: for another line.
    """
    parents: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        words = line.split()
        if words and len(words) != 2:
            raise ValueError(f"{path}:{number}: a line must be PARENT CHILD. Received: {line!r}")
        if words:
            parent, child = words
            parents[child] = (*parents.get(child, ()), parent)
    return parents


def ancestors(synset: str, parents: Mapping[str, Iterable[str]]) -> list[str]:
    """All hypernyms of a synset, the near ones first. A synset may have several; a loop ends.

    Example:
        >>> ancestors("tench", {"tench": ["fish", "game"], "fish": ["animal"], "game": ["animal"]})
        ['fish', 'game', 'animal']
    """
    found = [synset]
    for one in found:  # it grows
        found += [parent for parent in parents.get(one, ()) if parent not in found]
    return found[1:]


def with_ancestors(synset: str, above: Iterable[str], classes: set[str]) -> tuple[str, ...]:
    """The labels of a synset's images: itself, and its hypernyms that are classes.

    Example:
        >>> with_ancestors("tench", ["fish", "animal"], {"tench", "animal"})
        ('tench', 'animal')
    """
    return (synset, *(name for name in above if name in classes))
