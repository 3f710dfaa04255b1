"""What TensorFlow reaches on this machine: matrix products, and reading and writing memory.

python -m benchmarks.speed.ceilings_worker '{}'
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import tensorflow as tf

from benchmarks.speed.worker import seconds_of, serve


def rates(step: Callable[[], object], amount: float, seconds: float) -> tuple[float, float]:
    """How much a second `step` does in about so many seconds: the median and the best call.

    Args:
        step: does it once.
        amount: that it does, such as floating-point operations.
        seconds: to repeat it for.
    """
    step()  # compiles
    times = seconds_of(step, seconds, least=3)
    return amount / median(times), amount / min(times)


def flops(
    shapes: Sequence[Sequence[int]], seconds: float, dtype: str = "float32"
) -> list[tuple[float, float]]:
    """Operations a second of products [m, k] × [k, n]: for each shape the median and the best.

    Args:
        shapes: (m, k, n) of each.
        seconds: about so long for each.
        dtype: of factors and product.
    """
    product = tf.function(tf.matmul)
    found = []
    for m, k, n in shapes:
        a, b = (tf.cast(tf.random.normal(shape), dtype) for shape in ((m, k), (k, n)))
        found.append(rates(partial(product, a, b), 2.0 * m * k * n, seconds))
    return found


def bandwidth(sizes: Sequence[int], seconds: float) -> list[tuple[float, float]]:
    """Bytes a second of x + 1, read and written, float32: for each size the median and the best.

    Args:
        sizes: of x, bytes.
        seconds: about so long for each.
    """
    add = tf.function(lambda x: x + 1.0)
    found = []
    for size in sizes:
        x = tf.random.uniform([size // 4])
        found.append(rates(partial(add, x), 2.0 * x.dtype.size * int(tf.size(x)), seconds))
    return found


def main() -> None:
    """Serves."""
    tasks: dict[str, Callable[..., Any]] = {
        "flops32": flops,
        "flops16": partial(flops, dtype="bfloat16"),
        "bandwidth": bandwidth,
    }
    serve(tasks, versions={"tensorflow": tf.__version__})


if __name__ == "__main__":
    main()
