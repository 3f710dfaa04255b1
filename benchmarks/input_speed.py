"""Images/s of the pre-training input beside what training an R50x1 consumes, in one run.

    python -m benchmarks.input_speed

The input is record shards of JPEG files of the size of ILSVRC-2012's, 500 × 375, decoded and
cropped in one step to 224². Reading and training take turns on the same processors, so that a busy
machine slows both; what counts is their ratio.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from benchmarks.speed.photographs import HEIGHT, WIDTH, photograph
from bit_keras import ResNetV2
from bit_keras.data import pretrain_batches
from bit_keras.distribute import Part
from bit_keras.optimizers import SGD
from bit_keras.sources import Source, load_source
from bit_keras.text import table
from bit_keras.update import Update

IMAGES, CLASSES, SIZE, BATCH, ROUNDS = 256, 10, 224, 8, 5


def write_shards(folder: Path, seed: int = 0) -> float:
    """Writes the images as two shards; returns the mean size of a file in bytes."""
    rng = np.random.default_rng(seed)
    total = 0
    for shard in range(2):
        with tf.io.TFRecordWriter(str(folder / f"train-{shard}.tfrecord")) as writer:
            for i in range(IMAGES // 2):
                data = photograph(rng)
                total += len(data)
                feature = {
                    "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[data])),
                    "image/class/label": tf.train.Feature(
                        int64_list=tf.train.Int64List(value=[i % CLASSES])
                    ),
                }
                example = tf.train.Example(features=tf.train.Features(feature=feature))
                writer.write(example.SerializeToString())
    return total / IMAGES


def input_rate(source: Source, batches: int = 48) -> float:
    """Images/s of the input pipeline alone."""
    stream = iter(
        pretrain_batches(source, "train", Part(0, 1, BATCH), size=SIZE, num_classes=CLASSES, seed=0)
    )
    next(stream)
    started = time.perf_counter()
    for _ in range(batches):
        next(stream)
    return batches * BATCH / (time.perf_counter() - started)


class Training:
    """Updates of an R50x1 on a batch that is there already."""

    def __init__(self) -> None:
        model = ResNetV2(50, 1, CLASSES)
        optimizer = SGD(0.03, momentum=0.9, l2=1e-4)
        optimizer.build(model.trainable_variables)
        update = Update(model, optimizer, BATCH)
        strategy = tf.distribute.get_strategy()
        self._step = tf.function(lambda x, y: strategy.run(update, args=(x, y)))
        self._images = tf.random.uniform((BATCH, SIZE, SIZE, 3), -1, 1)
        self._labels = tf.one_hot(tf.range(BATCH) % CLASSES, CLASSES)
        self._step(self._images, self._labels)

    def rate(self, steps: int = 3) -> float:
        """Images/s."""
        started = time.perf_counter()
        for _ in range(steps):
            self._step(self._images, self._labels).numpy()
        return steps * BATCH / (time.perf_counter() - started)


def main() -> None:
    """Measures and prints."""
    with tempfile.TemporaryDirectory() as folder:
        size = write_shards(Path(folder))
        source = load_source(f"tfrecord:{folder}/train-*.tfrecord")
        training = Training()
        rows = [(input_rate(source), training.rate()) for _ in range(ROUNDS)]
    ratios = [read / trained for read, trained in rows]
    shown = [
        (name, f"{statistics.median(values):,.1f}", f"{min(values):,.1f}–{max(values):,.1f}")
        for name, values in (
            (
                f"input, images/s (JPEG {WIDTH}×{HEIGHT}, {size / 1000:.0f} kB)",
                [r[0] for r in rows],
            ),
            (f"training R50x1 at {SIZE}², images/s", [r[1] for r in rows]),
            ("ratio", ratios),
        )
    ]
    print(table(("", f"median of {ROUNDS}", "range"), shown, "lrr"))


if __name__ == "__main__":
    main()
