"""A contestant that only starts: our serving module read, and one image answered.

python -m benchmarks.speed.startup_ours '{"module": "m", "images": "images.npy"}'

A serving module needs TensorFlow alone, so that is what is imported.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import tensorflow as tf

from benchmarks.speed.worker import serve


def main() -> None:
    """Answers the first image of a file with float32 [N, H, W, 3] in [-1, 1], and says so."""
    settings = json.loads(sys.argv[1])
    image = np.load(settings["images"])[:1] / 2 + 0.5
    before = time.perf_counter()
    module = tf.saved_model.load(settings["module"])
    logits = module.signatures["serving_default"](tf.constant(image))["logits"].numpy()
    seconds = time.perf_counter() - before
    versions = {"tensorflow": tf.__version__}
    serve({}, seconds=seconds, logits=logits[0].tolist(), versions=versions)


if __name__ == "__main__":
    main()
