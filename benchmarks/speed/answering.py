"""What all contestants of the inference part do: answer some images, and do it again and again.

Only the standard library and NumPy, for it runs in the environments of all peers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from benchmarks.speed.worker import seconds_of, serve


def serve_answers(
    images: str,
    answer: Callable[[Any], np.ndarray],
    prepared: Callable[[np.ndarray], Any],
    **about: Any,
) -> None:
    """Serves the tasks "answer" and "run" until the standard input ends.

    "answer" writes the logits of the first `batch` images to a file, "run" answers them again and
    again for some seconds.

    Args:
        images: of the npy file with float32 [N, H, W, 3] in [0, 1].
        answer: a batch, as `prepared` made it → logits, float32 [B, K]. Only this is timed.
        prepared: images [B, H, W, 3] in [0, 1] → the batch as the library wants it.
        **about: said at once, such as the versions in use.
    """
    loaded = np.load(images)

    @cache
    def batch_of(count: int) -> Any:
        return prepared(np.ascontiguousarray(loaded[:count]))

    def answered(batch: int, out: str) -> str:
        np.save(out, answer(batch_of(batch)))
        return out

    def run(batch: int, seconds: float) -> list[float]:
        images = batch_of(batch)
        return seconds_of(lambda: answer(images), seconds)

    serve({"answer": answered, "run": run}, **about)
