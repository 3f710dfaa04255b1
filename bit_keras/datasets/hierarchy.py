"""Classes of a tree of folders, and a split that keeps groups together; pure functions."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

Folders = tuple[str, ...]
ROOT_DEPTH = 2  # a category is a package and its first folder: ("openclipart", "animals")


def leaf_classes(folders: Sequence[Folders], least: int) -> list[Folders | None]:
    """The class of each example: its folder, or a folder above it where it has too few.

    From the deepest folders upwards, a folder with fewer than `least` examples gives them to the
    one above; a category that is still too small has no class.

    Args:
        folders: of each example.
        least: examples that a class needs.

    Returns:
        The class of each example, as a path, or None.

    Example:
        >>> leaf_classes([("p", "a", "x"), ("p", "a", "y"), ("p", "b")], least=2)
        [('p', 'a'), ('p', 'a'), None]
    """
    counts = Counter(folders)
    moved: dict[Folders, Folders | None] = {}
    for depth in range(max(map(len, folders), default=0), ROOT_DEPTH - 1, -1):
        for folder in [f for f in counts if len(f) == depth and counts[f] < least]:
            above = folder[:-1] if depth > ROOT_DEPTH else None
            moved[folder] = above
            if above is not None:
                counts[above] += counts[folder]

    def resolved(folder: Folders | None) -> Folders | None:
        while folder is not None and folder in moved:
            folder = moved[folder]
        return folder

    return [resolved(folder) for folder in folders]


def all_classes(leaves: Sequence[Folders]) -> list[str]:
    """Names of the leaf classes and of their categories, sorted.

    Example:
        >>> all_classes([("p", "a", "x"), ("p", "b")])
        ['p/a', 'p/a/x', 'p/b']
    """
    return sorted({"/".join(path) for leaf in leaves for path in (leaf, leaf[:ROOT_DEPTH])})


def labels_of(leaf: Folders, names: Sequence[str]) -> list[str]:
    """All classes an example has: its category, classes between, and its leaf class.

    Example:
        >>> labels_of(("p", "a", "x", "deep"), ["p/a", "p/a/x/deep", "p/b"])
        ['p/a', 'p/a/x/deep']
    """
    known = set(names)
    paths = ("/".join(leaf[:depth]) for depth in range(ROOT_DEPTH, len(leaf) + 1))
    return [path for path in paths if path in known]


def held_out(
    classes: Sequence[Folders], groups: Sequence[str], fraction: float, seed: int = 0
) -> list[bool]:
    """Which examples are validation examples: stratified, whole groups, in a stable order.

    In each class, groups are taken in the order of the hash of their names while there is room,
    so that other examples coming or going move few of the rest.

    Args:
        classes: of each example.
        groups: of each example; a group in several classes is taken as a whole.
        fraction: to hold out of each class. It is missed where groups are large: one more than
            twice the room that is left stays in training.
        seed: another seed gives another order.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for i, group in enumerate(groups):
        members[group].append(i)
    order = sorted(members, key=lambda g: hashlib.sha256(f"{seed}/{g}".encode()).digest())
    room = {c: round(fraction * count) for c, count in Counter(classes).items()}
    held = [False] * len(classes)
    for group in order:
        needed = Counter(classes[i] for i in members[group])
        if all(room[c] > 0 and count <= 2 * room[c] for c, count in needed.items()):
            for i in members[group]:
                held[i] = True
                room[classes[i]] -= 1
    return held
