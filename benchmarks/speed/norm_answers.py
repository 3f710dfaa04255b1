"""What contestants in group normalisation have in common, whatever their library."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from benchmarks.speed.worker import seconds_of, serve

Forms = dict[str, Callable[[], Any]]


def inputs(shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """The same float32 for all: x and the output's gradient [B, H, W, C], gamma and beta [C]."""
    rng = np.random.default_rng(0)
    x, upstream = (rng.standard_normal(shape, np.float32) for _ in range(2))
    gamma, beta = (rng.standard_normal(shape[-1:], np.float32) for _ in range(2))
    return 2 * x + 1, upstream, gamma, beta


def serve_norms(
    forms_of: Callable[[tuple[int, ...]], Forms],
    numpy: Callable[[Any], np.ndarray],
    versions: dict[str, str],
) -> None:
    """Serves the tasks "answers" and "times".

    Args:
        forms_of: for a shape [B, H, W, C], what does it once, by name.
        numpy: makes an array [B, H, W, C] or [C] of a result.
        versions: of the libraries.
    """
    kept: dict[tuple[int, ...], Forms] = {}

    def forms(shape: list[int]) -> Forms:
        key = tuple(shape)
        if key not in kept:
            kept[key] = forms_of(key)
        return kept[key]

    def answers(shape: list[int], out: str) -> list[str]:
        """Writes the first image's results of each form; also compiles all. Returns names."""
        found: dict[str, Any] = {}
        for name, step in forms(shape).items():
            results = step()
            for i, result in enumerate(results if name.endswith("gradient") else [results]):
                array = numpy(result)
                found[f"{name}/{i}"] = array[:1] if array.ndim == 4 else array
        np.savez(out, **found)
        return list(found)

    def times(shapes: list[list[int]], seconds: float, backwards: bool) -> list[dict[str, float]]:
        """For each shape the median seconds of a call, by form; one form after the other."""
        found = []
        for shape in shapes:
            steps = list(forms(shape).items())
            steps = steps[::-1] if backwards else steps
            found.append({name: median(seconds_of(s, seconds, least=3)) for name, s in steps})
        return found

    serve({"answers": answers, "times": times}, versions=versions)
