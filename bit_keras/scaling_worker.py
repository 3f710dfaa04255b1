"""A process of `measure_scaling`: it measures one thing on the cores that it is given.

python -m bit_keras.scaling_worker probe|train CORES FOLDER
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from bit_keras.backend import load_tensorflow

if __name__ == "__main__":  # before TensorFlow counts the cores
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[2])])
load_tensorflow()

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from bit_keras.distribute import Part, make_strategy, split_cpu  # noqa: E402
from bit_keras.inception import decode_and_inception_crop  # noqa: E402
from bit_keras.measure_scaling import CLASSES, IMAGES, MODEL, SIZE  # noqa: E402
from bit_keras.optimizers import pretrain_sgd  # noqa: E402
from bit_keras.presets import get_preset  # noqa: E402
from bit_keras.resnet import ResNetV2  # noqa: E402
from bit_keras.runs import RunFolder  # noqa: E402
from bit_keras.trainer import Trainer  # noqa: E402
from bit_keras.upstream import pretrain_recipe  # noqa: E402

_STEPS = 4  # updates of one compiled loop
_JPEG_SIDES = (375, 500)  # a typical image of ILSVRC-2012


def _clocks() -> np.ndarray:
    """Seconds on the wall, and the processor's for this process on each of its cores, [2]."""
    return np.array([time.perf_counter(), time.process_time() / len(os.sched_getaffinity(0))])


def _seconds(function: Callable[[], Any], least: float = 0.2) -> np.ndarray:
    """Of one call by both clocks, [2], from as many calls as take the processor `least` seconds."""
    function()
    calls, begin, spent = 0, _clocks(), np.zeros(2)
    while spent[1] < least:
        function()
        calls, spent = calls + 1, _clocks() - begin
    return spent / calls


def _probe(_: int, __: str) -> Callable[[], dict[str, float]]:
    """What one core can do."""
    side = 1024
    matrix = tf.random.normal([side, side])
    vector = tf.zeros([2**26])  # 256 MB, more than any cache
    random = np.random.default_rng(0)
    coarse = tf.image.resize(random.uniform(0, 255, [1, 47, 63, 3]), _JPEG_SIDES, "bicubic")[0]
    noisy = coarse + random.normal(0, 15, [*_JPEG_SIDES, 3])
    encoded = tf.io.encode_jpeg(tf.cast(tf.clip_by_value(noisy, 0, 255), tf.uint8), quality=90)
    multiply = tf.function(lambda: tf.reduce_sum(matrix @ matrix))
    copy = tf.function(lambda x: x + 1.0)
    seeds = tf.data.Dataset.range(64).batch(1)

    def view(seed: tf.Tensor) -> tf.Tensor:
        return decode_and_inception_crop(encoded, [tf.constant(0, tf.int64), seed[0]], 224)

    views = seeds.map(view)

    def crops() -> None:
        for _ in views:
            pass

    return lambda: {
        "flops": 2 * side**3 / _seconds(multiply)[1],
        "bandwidth": 2 * 4 * 2**26 / _seconds(lambda: copy(vector))[1],
        "decode": 64 / _seconds(crops)[1],
        "jpeg_bytes": len(encoded.numpy()),
    }


def _train(replicas: int, folder: str) -> Callable[[], dict[str, float]]:
    """Training with the product's own loop, on images that are there already."""
    strategy = make_strategy("mirrored" if replicas > 1 else "one_device")
    recipe, architecture = pretrain_recipe("BiT-XS"), get_preset(MODEL).architecture
    with strategy.scope():
        model = ResNetV2(architecture.depth, architecture.width, CLASSES)
        optimizer = pretrain_sgd(recipe)
    trainer = Trainer(
        model, optimizer, strategy, RunFolder(folder), learning_rate=recipe.learning_rate_at,
        batch_size=replicas * IMAGES, steps_per_loop=_STEPS,
    )  # fmt: skip

    def batches(_: int, part: Part) -> tf.data.Dataset:
        size = part.batch_size
        batch = {
            "image": tf.random.uniform([size, SIZE, SIZE, 3], -1, 1, seed=1),
            "label": tf.one_hot(tf.range(size) % CLASSES, CLASSES),
            "position": tf.range(size, dtype=tf.int64),
        }
        return tf.data.Dataset.from_tensors(batch).cache().repeat()

    def summed() -> list[tf.Tensor]:
        context = tf.distribute.get_replica_context()
        values = [variable.value for variable in model.trainable_variables]
        return context.all_reduce(tf.distribute.ReduceOp.SUM, values)

    sum_all = tf.function(lambda: strategy.run(summed))

    def loops(count: int) -> tuple[float, float]:
        """Seconds of an update in the last loop on the wall, and the processor's of all that."""
        begin = _clocks()
        steps = trainer.step + count * _STEPS
        trainer.train(batches, steps, checkpoint_every=10**9, progress=False)
        processor = (_clocks() - begin)[1]
        *_, last = trainer.run.read_metrics()
        return trainer.batch_size / last["images_per_second"], processor

    def one_round() -> dict[str, float]:
        # The difference leaves out what a call takes beside its updates: iterators, a checkpoint.
        (_, least), (wall, most) = loops(1), loops(3)
        sums = _seconds(sum_all) if replicas > 1 else np.zeros(2)
        return {
            "wall": wall,
            "processor": (most - least) / (2 * _STEPS),
            "all_reduce_wall": sums[0],
            "all_reduce_processor": sums[1],
        }

    return one_round


def _serve(task: str, cores: int, folder: str) -> None:
    """One round, told as a line of JSON, for every line that is read."""
    if cores > 1:
        split_cpu(cores)
    one_round = {"probe": _probe, "train": _train}[task](cores, folder)
    for _ in sys.stdin:
        print(json.dumps(one_round()), flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]), sys.argv[3])
