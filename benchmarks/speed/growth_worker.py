"""A contestant: our serving module, with images of any size and number.

python -m benchmarks.speed.growth_worker '{"module": "m"}'
"""

from __future__ import annotations

import json
import sys
from functools import cache

import numpy as np
import tensorflow as tf

from benchmarks.speed.keras_inference import serving
from benchmarks.speed.versions import VERSIONS
from benchmarks.speed.worker import seconds_of, serve


@cache
def images(side: int, batch: int) -> tf.Tensor:
    """Random ones [B, H, W, 3] in [0, 1]; the first is the same in every number."""
    rng = np.random.default_rng(side)
    return tf.constant(rng.random((batch, side, side, 3), np.float32))


def main() -> None:
    """Serves."""
    answer = serving(json.loads(sys.argv[1])["module"])

    def first(side: int, batch: int) -> list[float]:
        return answer(images(side, batch))[0].tolist()

    def run(side: int, batch: int, seconds: float) -> list[float]:
        return seconds_of(lambda: answer(images(side, batch)), seconds)

    serve({"first": first, "run": run}, versions=VERSIONS)


if __name__ == "__main__":
    main()
