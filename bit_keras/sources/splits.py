"""Which examples: few-shot subsets and hold-outs, from the labels alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def few_shot_indices(
    labels: ArrayLike, shots: int, seed: int, class_names: Sequence[str] | None = None
) -> np.ndarray:
    """`shots` examples of every class, without replacement (paper section 4.2).

    Args:
        labels: [examples] int. The classes are the values that occur in it, or all of
            `class_names` when given.
        shots: examples per class, at least 1.
        seed: another seed gives another subset.
        class_names: for the error's text, and to miss classes without any example.

    Returns:
        [classes · shots] int64, sorted.

    Raises:
        ValueError: when a class has fewer examples; the error names every such class.

    Example:
        >>> few_shot_indices([0, 1, 0, 1], shots=2, seed=0)
        array([0, 1, 2, 3])
    """
    labels = np.asarray(labels)
    if shots < 1:
        raise ValueError(f"`shots` must be at least 1. Received: {shots}")
    classes = np.unique(labels) if class_names is None else np.arange(len(class_names))
    members = {int(c): np.flatnonzero(labels == c) for c in classes}
    short = {c: len(m) for c, m in members.items() if len(m) < shots}
    if short:
        listed = ", ".join(
            f"{c if class_names is None else class_names[c]} ({count})"
            for c, count in short.items()
        )
        raise ValueError(
            f"Not every class has {shots} examples: {listed}. "
            f"Use at most {min(short.values())} shots. Received: shots={shots}"
        )
    rng = np.random.default_rng(seed)
    chosen = [rng.choice(m, shots, replace=False) for m in members.values()]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def stratified_split(
    labels: ArrayLike, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Holds out the same fraction of every class.

    Args:
        labels: [examples] int.
        fraction: to hold out, above 0 and below 1. A class of two or more examples gives at least
            one and keeps at least one; a single example is kept.
        seed: another seed holds out others.

    Returns:
        (kept, held out), int64 indices, each sorted; every example is in exactly one.

    Raises:
        ValueError: for a fraction that is not between 0 and 1.

    Example:
        >>> stratified_split([0, 0, 1, 1], 0.5, seed=0)[1].shape
        (2,)
    """
    if not 0 < fraction < 1:
        raise ValueError(f"`fraction` must be between 0 and 1, exclusive. Received: {fraction}")
    labels = np.asarray(labels)
    rng = np.random.default_rng(seed)
    held_out = np.zeros(len(labels), bool)
    for c in np.unique(labels):
        members = np.flatnonzero(labels == c)
        if len(members) > 1:
            count = min(max(1, round(len(members) * fraction)), len(members) - 1)
            held_out[rng.choice(members, count, replace=False)] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
