"""A contestant: training steps of ours, or of the same network of stock Keras layers.

python -m benchmarks.speed.keras_training '{"kind": "ours", …}'
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.speed.stock_keras import stock_resnet
from benchmarks.speed.versions import VERSIONS
from benchmarks.speed.worker import peak_bytes, resident_bytes, seconds_of, serve
from bit_keras import ResNetV2, load_npz, save_npz
from bit_keras.optimizers import SGD
from bit_keras.pretrain import POLICIES
from bit_keras.remat import rematerialised
from bit_keras.update import Update

Step = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


@dataclass
class Training:
    """Updates on batches that are there already.

    Args:
        kind: "ours" or "stock".
        depth: of the network.
        width: of the network.
        classes: outputs of the head.
        weights: the npz file to start from.
        images: of the npy file with float32 [N, H, W, 3] in [-1, 1].
        labels: of the npy file with int64 [N].
        learning_rate: of SGD with momentum 0.9 and no decay, as in the HyperRule.
        precision: "float32", or for ours "bfloat16".
        microbatches: parts of a batch, for ours.
        remat: whether activations are computed again, for ours.
    """

    kind: str
    depth: int
    width: float
    classes: int
    weights: str
    images: str
    labels: str
    learning_rate: float
    precision: str = "float32"
    microbatches: int = 1
    remat: bool = False

    def __post_init__(self) -> None:
        if self.kind == "ours":
            policy = POLICIES[self.precision]
            self.model = ResNetV2(self.depth, self.width, self.classes, dtype=policy)
            self.optimizer = SGD(self.learning_rate, momentum=0.9)
        else:
            self.model = stock_resnet(self.depth, self.width, self.classes)
            self.optimizer = keras.optimizers.SGD(self.learning_rate, momentum=0.9)
        load_npz(self.model, self.weights)
        self.optimizer.build(self.model.trainable_variables)
        self._loops: dict[int, Any] = {}

    def loop(self, batch: int) -> Callable[[int], Any]:
        """Does so many updates on batches of a size and returns their losses, as our trainer does.

        The loop is the trainer's: a `tf.function` of several steps that draws from an iterator.
        """
        if batch not in self._loops:
            images = np.load(self.images, mmap_mode="r")[:batch]
            labels = tf.one_hot(np.load(self.labels)[:batch], self.classes)
            data = tf.data.Dataset.from_tensors((tf.constant(images), labels)).repeat()
            self._loops[batch] = _compiled(self._step(batch)), iter(data)
        compiled, iterator = self._loops[batch]
        return lambda count: compiled(iterator, tf.constant(count)).numpy()

    def _step(self, batch: int) -> Step:
        if self.kind == "stock":
            return self._stock_step
        update = Update(
            self.model,
            self.optimizer,
            batch,
            forward=rematerialised(self.model) if self.remat else None,
            microbatches=self.microbatches,
        )
        strategy = tf.distribute.get_strategy()
        return lambda images, labels: strategy.run(update, args=(images, labels))[0]

    def _stock_step(self, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """As Keras' guide to custom training loops writes it."""
        with tf.GradientTape() as tape:
            logits = self.model(images, training=True)
            losses = keras.losses.categorical_crossentropy(labels, logits, from_logits=True)
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, self.model.trainable_variables)
        self.optimizer.apply(gradients, self.model.trainable_variables)
        return loss

    def losses(self, batch: int, count: int) -> list[float]:
        """Of the next updates."""
        return [float(loss) for loss in self.loop(batch)(count)]

    def steps(self, batch: int, seconds: float, least: int = 1) -> list[float]:
        """Seconds of each update, for about so long."""
        loop = self.loop(batch)
        return seconds_of(lambda: loop(1), seconds, least)

    def trace(self, batch: int) -> None:
        """Compiles, and does nothing else."""
        self.loop(batch)(0)

    def save(self, path: str) -> str:
        """Writes the weights as they are now."""
        save_npz(self.model, f"{path}.npz")
        return f"{path}.npz"


def _compiled(step: Step) -> Any:
    @tf.function
    def loop(iterator: Any, count: tf.Tensor) -> tf.Tensor:
        losses = tf.TensorArray(tf.float32, size=count)
        for index in tf.range(count):
            losses = losses.write(index, step(*next(iterator)))
        return losses.stack()

    return loop


def main() -> None:
    """Serves."""
    before = resident_bytes()
    training = Training(**json.loads(sys.argv[1]))
    serve(
        {
            "losses": training.losses,
            "steps": training.steps,
            "trace": training.trace,
            "save": training.save,
            "memory": lambda: {"peak": peak_bytes(), "before": before},
        },
        versions=VERSIONS,
    )


if __name__ == "__main__":
    main()
