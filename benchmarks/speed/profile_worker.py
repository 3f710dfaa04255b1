"""A step of ours under TensorFlow's profiler, in a process of its own; `profile.py` asks for it.

python -m benchmarks.speed.profile_worker '{"step": "inference", "batch": 8, "side": 224}'
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import keras
import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from benchmarks.speed.profile_kinds import Layer, Op, parsed, shared
from benchmarks.speed.versions import VERSIONS
from benchmarks.speed.worker import seconds_of, serve
from bit_keras import ResNetV2
from bit_keras.modules import serving
from bit_keras.optimizers import SGD
from bit_keras.pretrain import POLICIES
from bit_keras.update import Update

STEP = "bit_keras profiled step"
OPERATIONS = 2  # TensorFlow's trace level that has them all, but no details of each


class Step:
    """One step of inference or training on a batch that is there already.

    Args:
        step: "inference", of the serving module, or "training".
        batch: images in it.
        side: of them, pixels.
        depth: of the network.
        width: of the network.
        classes: outputs of the head.
        precision: "float32" or "bfloat16".
    """

    def __init__(
        self,
        step: str,
        batch: int,
        side: int,
        depth: int = 50,
        width: float = 1,
        classes: int = 1000,
        precision: str = "float32",
    ) -> None:
        self.precision, self._shape = precision, (batch, side, side, 3)
        self.model = ResNetV2(depth, width, classes, dtype=POLICIES[precision])
        self._images = tf.random.uniform(self._shape)
        make = {"inference": self._inference, "training": self._training}[step]
        self.run: Callable[[], object] = make(batch, side, classes)
        self.run()

    def _inference(self, batch: int, side: int, classes: int) -> Callable[[], object]:
        self._module, signatures = serving(self.model, side, multi_label=False)
        answer = signatures["serving_default"]
        return lambda: answer(images=self._images)["logits"].numpy()

    def _training(self, batch: int, side: int, classes: int) -> Callable[[], object]:
        optimizer = SGD(1e-4, momentum=0.9)
        optimizer.build(self.model.trainable_variables)
        update = Update(self.model, optimizer, batch)
        strategy = tf.distribute.get_strategy()
        step = tf.function(lambda x, y: strategy.run(update, args=(x, y)))
        labels = tf.one_hot(tf.range(batch) % classes, classes)
        return lambda: step(self._images, labels).numpy()

    def layers(self) -> list[dict[str, Any]]:
        """The shapes of all layers, as `profile_kinds.Layer`."""
        layers = [x for x in self.model.layers if not isinstance(x, keras.layers.InputLayer)]
        outputs = keras.Model(self.model.input, [layer.output for layer in layers])
        shapes = outputs.compute_output_shape(self._shape)
        found = []
        for layer, shape in zip(layers, shapes, strict=True):
            kernel = list(layer.kernel.shape) if hasattr(layer, "kernel") else []
            found.append(Layer(layer.name, type(layer).__name__, kernel, list(shape)))
        return [dataclasses.asdict(layer) for layer in found]

    def profile(self, steps: int, seconds: float) -> dict[str, Any]:
        """Runs it without the profiler and with it.

        Args:
            steps: to be profiled.
            seconds: about so long without the profiler before.

        Returns:
            "plain", seconds of the median step without the profiler, and of the median step with
            it: "profiled", its seconds; "ops", a list of name, type and seconds; "idle", seconds
            in which no operation ran.
        """
        plain = median(seconds_of(self.run, seconds, least=2))
        with tempfile.TemporaryDirectory() as folder:
            with _profiler(folder):
                for number in range(steps):
                    with tf.profiler.experimental.Trace(STEP, step_num=number):
                        self.run()
            found = traced(next(Path(folder).rglob("*.xplane.pb")))
        begin, end, ops = sorted(found, key=lambda step: step[1] - step[0])[len(found) // 2]
        seconds_of_ops, idle = shared(ops, begin, end)
        return {
            "plain": plain,
            "profiled": end - begin,
            "ops": [(op.name, op.type, s) for op, s in zip(ops, seconds_of_ops, strict=True)],
            "idle": idle,
        }

    def ceilings(self, seconds: float) -> dict[str, float]:
        """What this process reaches: "gflops" of a matrix product, "gbs" of reading and writing.

        Args:
            seconds: about so long for each.
        """
        dtype = self.model.compute_dtype
        side, shape = 2048, (8, 112, 112, 64)
        a, x = tf.ones((side, side), dtype), tf.ones(shape, dtype)
        product, copy = tf.function(tf.matmul), tf.function(lambda x: x + 1)
        product(a, a), copy(x)
        moved = 2 * tf.size(x).numpy() * x.dtype.size
        return {
            "gflops": 2e-9 * side**3 / min(seconds_of(lambda: product(a, a), seconds)),
            "gbs": 1e-9 * moved / min(seconds_of(lambda: copy(x), seconds)),
        }


@contextlib.contextmanager
def _profiler(folder: str) -> Iterator[None]:
    options = tf.profiler.experimental.ProfilerOptions(
        host_tracer_level=OPERATIONS, python_tracer_level=0, device_tracer_level=0
    )
    tf.profiler.experimental.start(folder, options)
    try:
        yield
    finally:
        tf.profiler.experimental.stop()


def traced(path: Path) -> list[tuple[float, float, list[Op]]]:
    """The profiled steps in a trace: begin and end in seconds, and the operations within.

    Args:
        path: the file that TensorFlow's profiler wrote.
    """
    space = xplane_pb2.XSpace.FromString(path.read_bytes())
    steps: list[tuple[float, float]] = []
    ops: list[Op] = []
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                name = plane.event_metadata[event.metadata_id].name
                begin = 1e-9 * line.timestamp_ns + 1e-12 * event.offset_ps
                end = begin + 1e-12 * event.duration_ps
                if name == STEP:
                    steps.append((begin, end))
                elif op := parsed(name, begin, end):
                    ops.append(op)
    return [(a, b, [op for op in ops if a <= op.begin and op.end <= b]) for a, b in sorted(steps)]


def main() -> None:
    """Serves."""
    step = Step(**json.loads(sys.argv[1]))
    serve(
        {"profile": step.profile, "layers": step.layers, "ceilings": step.ceilings},
        versions=VERSIONS,
    )


if __name__ == "__main__":
    main()
