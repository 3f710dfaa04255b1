"""What contestants of the input part have in common: they deliver batches for training.

Only the standard library and NumPy, for it runs in the environments of all peers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.speed.worker import serve

Batch = tuple[np.ndarray, np.ndarray]


def described(images: np.ndarray, labels: np.ndarray, classes: int) -> dict[str, Any]:
    """What the views of different libraries must have in common, though none is like another.

    Args:
        images: float32 [N, H, W, 3].
        labels: int [N].
        classes: how many there are.

    Returns:
        shape of an image, dtype, least, most, mean and deviation of the values, how much a pixel
        differs from its neighbour on average, and how often each class came.
    """
    return {
        "shape": list(images.shape[1:]),
        "dtype": str(images.dtype),
        "least": float(images.min()),
        "most": float(images.max()),
        "mean": float(images.mean()),
        "deviation": float(images.std()),
        "detail": float(np.abs(np.diff(images, axis=2)).mean()),
        "labels": np.bincount(labels, minlength=classes).tolist(),
    }


def serve_batches(
    begin: Callable[[], Iterator[Any]],
    arrays: Callable[[Any], Batch],
    batch: int,
    classes: int,
    **about: Any,
) -> None:
    """Serves the tasks "sample" and "rate" until the standard input ends.

    Args:
        begin: starts reading; what it returns is left to itself afterwards, and must then stop.
        arrays: a batch as the library gives it → images [B, H, W, 3] and labels [B].
        batch: images in one.
        classes: how many there are.
        **about: said at once, such as the versions in use.
    """

    def sample(batches: int) -> dict[str, Any]:
        stream = begin()
        found = [arrays(next(stream)) for _ in range(batches)]
        images, labels = (np.concatenate(part) for part in zip(*found, strict=True))
        return described(images, labels, classes)

    def rate(warmup: float, seconds: float) -> list[float]:
        """Seconds an image, once what is read ahead has been used up and workers are at speed."""
        stream = begin()
        _taken(stream, warmup)
        batches, elapsed = _taken(stream, seconds)
        return [elapsed / (batches * batch)]

    serve({"sample": sample, "rate": rate}, **about)


def _taken(stream: Iterator[Any], seconds: float) -> tuple[int, float]:
    """Takes batches for at least so many seconds: how many, and how long it took."""
    begun, batches = time.perf_counter(), 0
    while not batches or time.perf_counter() - begun < seconds:
        next(stream)
        batches += 1
    return batches, time.perf_counter() - begun
