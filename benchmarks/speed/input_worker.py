"""A contestant: batches of `bit_keras.data.pretrain_batches`.

python -m benchmarks.speed.input_worker '{"source": "folder:photographs", "batch": 32, …}'
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import tensorflow as tf

import bit_keras
from benchmarks.speed.input_turns import Batch, serve_batches
from bit_keras.data import pretrain_batches
from bit_keras.distribute import Part
from bit_keras.sources import load_source


def batches(source: str, batch: int, size: int) -> tf.data.Dataset:
    """The endless batches of a data set's training split.

    Args:
        source: as `load_source` takes it.
        batch: images in one.
        size: side of the images in pixels.
    """
    loaded = load_source(source)
    part = Part(0, 1, batch)
    return pretrain_batches(
        loaded, "train", part, size=size, num_classes=loaded.num_classes, seed=0
    )


def _arrays(batch: dict[str, Any]) -> Batch:
    return batch["image"].numpy(), np.argmax(batch["label"], -1)


def main() -> None:
    """Serves."""
    settings = json.loads(sys.argv[1])
    classes = settings.pop("classes")
    dataset = batches(**settings)
    versions = {"bit_keras": bit_keras.__version__, "tensorflow": tf.__version__}
    serve_batches(lambda: iter(dataset), _arrays, settings["batch"], classes, versions=versions)


if __name__ == "__main__":
    main()
