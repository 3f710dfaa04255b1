"""One training loop under tf.distribute, for fine-tuning and pre-training alike.

`strategy.run` inside a `tf.function` of several steps: the host is called once per loop. The state
of a run is the model, the optimizer and one number, the position in the data stream.
"""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from bit_keras.files import tensorflow_disk_errors
from bit_keras.runs import RunFolder


class NonFiniteLossError(FloatingPointError):
    """The loss, or a weight, became NaN or infinite."""


class Terminated(SystemExit):
    """A signal asked the run to stop; the state is saved. Exits with 128 + the signal's number."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(128 + number)
        self.message = message


def softmax_loss(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Cross-entropy of each example, [B] from one-hot (or mixed) labels and logits [B, K]."""
    return tf.nn.softmax_cross_entropy_with_logits(labels, logits)


@contextmanager
def _signals_noted() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT instead of dying from them, so that a loop can finish first."""
    noted: list[int] = []

    def note(number: int, frame: Any) -> None:
        if noted and number == signal.SIGINT:
            raise KeyboardInterrupt  # the second Ctrl-C does not wait
        noted.append(number)

    try:
        before = {s: signal.signal(s, note) for s in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not the main thread: signals are somebody else's
        before = {}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Trainer:
    """Trains a model on an endless stream of batches, with checkpoints, metrics and resume.

    Model and optimizer must have been made within `strategy.scope()`.

    Args:
        model: maps images [B, H, W, 3] to logits [B, K].
        optimizer: a Keras 3 optimizer.
        learning_rate: the optimizer's schedule as a function of the step, for the records.
        strategy: where to run.
        run: the folder for checkpoints, metrics and TensorBoard files.
        batch_size: examples of one update over all replicas; the loss is their mean.
        loss: (labels [B, K], logits [B, K]) → losses [B].
        steps_per_loop: updates in one call of the compiled function.

    Attributes:
        step: updates done.
        position: where the data stream goes on, see `data.train_batches`.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        strategy: tf.distribute.Strategy,
        run: RunFolder,
        *,
        learning_rate: Callable[[int], float],
        batch_size: int,
        loss: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] = softmax_loss,
        steps_per_loop: int = 10,
    ) -> None:
        if batch_size % strategy.num_replicas_in_sync:
            raise ValueError(
                f"The batch of {batch_size} cannot be shared by {strategy.num_replicas_in_sync} "
                "replicas equally. Choose a batch size that is a multiple of their number."
            )
        self.model, self.optimizer, self.strategy, self.run = model, optimizer, strategy, run
        self.learning_rate, self.batch_size, self.loss = learning_rate, batch_size, loss
        self.steps_per_loop = steps_per_loop
        with strategy.scope():
            optimizer.build(model.trainable_variables)
            self._position = tf.Variable(0, dtype=tf.int64, trainable=False, name="position")
        checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer, position=self._position)
        self._manager = tf.train.CheckpointManager(
            checkpoint, str(run.checkpoints), max_to_keep=2, checkpoint_name="step"
        )
        self._run_loop = tf.function(self._loop)
        self._all_finite = tf.function(self._finite)

    @property
    def step(self) -> int:
        """Updates done so far."""
        return int(self.optimizer.iterations.numpy())

    @property
    def position(self) -> int:
        """Position of the next example of the stream."""
        return int(self._position.numpy())

    def restore(self) -> bool:
        """Loads the last good checkpoint of the run, if there is one, and says whether."""
        latest = self._manager.latest_checkpoint
        if latest is None:
            return False
        self._manager.checkpoint.restore(latest).assert_existing_objects_matched()
        self.run.rewind_metrics(self.step)
        return True

    def save(self) -> str:
        """Writes a checkpoint; one that is already there for this step is kept.

        Raises:
            NonFiniteLossError: when a weight is NaN or infinite; nothing is written then.
            OSError: on a full disk; earlier checkpoints stay.
        """
        if not bool(self._all_finite()):
            raise NonFiniteLossError(self._diagnosis("a weight", self.step))
        try:
            with tensorflow_disk_errors(self.run.checkpoints):
                return self._manager.save(checkpoint_number=self.step)
        finally:  # what a failed save leaves would keep a full disk full
            for leftover in self.run.checkpoints.glob("*_temp"):
                shutil.rmtree(leftover, ignore_errors=True)

    def train(
        self,
        batches: Callable[[int], tf.data.Dataset],
        steps: int,
        *,
        checkpoint_every: int,
        evaluate: Callable[[], dict[str, float]] | None = None,
        evaluate_every: int = 0,
        progress: bool = True,
    ) -> None:
        """Trains until `steps` updates are done, from wherever the state is.

        Args:
            batches: from a position, the endless data set of dicts `image`, `label`, `position`.
            steps: the total, not the number of further ones.
            checkpoint_every: updates between checkpoints; the end is one too.
            evaluate: gives numbers to record beside the loss.
            evaluate_every: updates between evaluations; 0 for none.
            progress: show a bar with rate and time left on stderr.

        Raises:
            NonFiniteLossError: with the step; the last good checkpoint is kept.
            Terminated: on SIGTERM or Ctrl-C, after the state is saved.
        """
        stops = [steps, checkpoint_every, evaluate_every if evaluate else 0]
        bar = tqdm(
            total=steps, initial=self.step, unit="step", disable=not progress, dynamic_ncols=True
        )
        writer = tf.summary.create_file_writer(str(self.run.tensorboard))
        dataset = self.strategy.experimental_distribute_dataset(batches(self.position))
        iterator = iter(dataset)
        with _signals_noted() as signals, bar, writer.as_default():
            while self.step < steps:
                begin, started = self.step, time.perf_counter()
                ahead = min([self.steps_per_loop, *(s - begin % s for s in stops if s)])
                losses = self._advance(iterator, ahead)
                seconds = time.perf_counter() - started
                self._record(begin, losses, seconds)
                bar.update(ahead)
                bar.set_postfix(loss=f"{losses[-1]:.4f}", refresh=False)
                # Before the checkpoint, so that a run killed in between evaluates again on resume.
                if evaluate and evaluate_every and self.step % evaluate_every == 0:
                    self._publish([{"step": self.step, **evaluate()}])
                if self.step % checkpoint_every == 0 or self.step == steps or signals:
                    self.save()
                if signals:
                    raise Terminated(signals[0], f"Saved at step {self.step}; --resume goes on.")

    def _advance(self, iterator: Any, count: int) -> np.ndarray:
        """Does `count` updates and returns their losses."""
        begin = self.step
        losses, position = self._run_loop(iterator, tf.constant(count))
        losses = losses.numpy()
        if not np.isfinite(losses).all():
            raise NonFiniteLossError(
                self._diagnosis("the loss", begin + int(np.argmin(np.isfinite(losses))))
            )
        self._position.assign(position + 1)
        return losses

    def _loop(self, iterator: Any, count: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        losses = tf.TensorArray(tf.float32, size=count)
        position = tf.constant(0, tf.int64)
        for index in tf.range(count):
            batch = next(iterator)
            shares = self.strategy.run(self._update, args=(batch["image"], batch["label"]))
            loss = self.strategy.reduce(tf.distribute.ReduceOp.SUM, shares, axis=None)
            losses = losses.write(index, loss)
            local = self.strategy.experimental_local_results(batch["position"])
            position = tf.reduce_max(tf.concat(local, axis=0))
        return losses.stack(), position

    def _update(self, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """One replica's part of an update; returns its share of the mean loss."""
        with tf.GradientTape() as tape:
            losses = self.loss(labels, self.model(images, training=True))
            share = tf.reduce_sum(losses) / self.batch_size
        variables = self.model.trainable_variables
        gradients = tape.gradient(share, variables)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))  # sums over replicas
        return tf.cast(share, tf.float32)

    def _finite(self) -> tf.Tensor:
        checks = [tf.reduce_all(tf.math.is_finite(v.value)) for v in self.model.variables]
        return tf.reduce_all(tf.stack(checks))

    def _diagnosis(self, what: str, step: int) -> str:
        kept = self._manager.latest_checkpoint
        rate = float(self.learning_rate(step))
        return (
            f"{what.capitalize()} became NaN or infinite at step {step} (learning rate about "
            f"{rate:g}). " + (f"The last good checkpoint is {kept}. " if kept else "")
            + "Try a lower learning rate, a longer warm-up, or float32, and check the images."
        )  # fmt: skip

    def _record(self, begin: int, losses: np.ndarray, seconds: float) -> None:
        rate = len(losses) * self.batch_size / seconds
        self._publish(
            {
                "step": begin + offset + 1,
                "loss": float(loss),
                "learning_rate": float(self.learning_rate(begin + offset)),
                "images_per_second": round(rate, 2),
            }
            for offset, loss in enumerate(losses)
        )

    def _publish(self, records: Any) -> None:
        """Writes records to metrics.jsonl and TensorBoard."""
        records = list(records)
        self.run.append_metrics(records)
        for record in records:
            for name, value in record.items():
                if name != "step":
                    tf.summary.scalar(name, value, step=record["step"])
