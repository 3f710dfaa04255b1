"""One training loop under tf.distribute, for fine-tuning and pre-training alike.

`strategy.run` inside a `tf.function` of several steps: the host is called once per loop. The state
of a run is the model, the optimizer and one number, the position in the data stream.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from bit_keras.distribute import Part, Workers, distributed
from bit_keras.files import tensorflow_disk_errors
from bit_keras.health import LossWindows
from bit_keras.runs import RunFolder
from bit_keras.signals import Terminated, signals_noted
from bit_keras.update import Update


class NonFiniteLossError(FloatingPointError):
    """The loss, or a weight, became NaN or infinite."""


class Trainer:
    """Trains a model on an endless stream of batches, with checkpoints, metrics and resume.

    Model and optimizer must have been made within `strategy.scope()`.

    Args:
        model: maps images [B, H, W, 3] to logits [B, K].
        optimizer: an `optimizers.SGD`, or a Keras LossScaleOptimizer around one.
        learning_rate: the optimizer's schedule as a function of the step, for the records.
        strategy: where to run.
        run: the folder for checkpoints, metrics and TensorBoard files. Workers share it; only the
            chief writes.
        batch_size: examples of one update over all replicas; the loss is their mean.
        steps_per_loop: updates in one call of the compiled function.
        windows: means of the loss to record beside it; none when left out.
        **update: settings of `update.Update`: loss, forward, microbatches, watched.

    Attributes:
        step: updates done.
        position: where each worker's data stream goes on, see `data.train_batches`.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: Any,
        strategy: tf.distribute.Strategy,
        run: RunFolder,
        *,
        learning_rate: Callable[[int], float],
        batch_size: int,
        steps_per_loop: int = 10,
        windows: LossWindows | None = None,
        **update: Any,
    ) -> None:
        replicas = strategy.num_replicas_in_sync
        shares = replicas * update.get("microbatches", 1)
        if batch_size % shares:
            raise ValueError(
                f"The batch of {batch_size} cannot be shared equally by {replicas} replicas with "
                f"{shares // replicas} micro-batches each. Choose a batch size that is a multiple "
                f"of {shares}."
            )
        self.model, self.optimizer, self.strategy, self.run = model, optimizer, strategy, run
        self.learning_rate, self.batch_size = learning_rate, batch_size
        self.steps_per_loop, self.windows = steps_per_loop, windows
        self.workers = Workers(strategy)
        self._update = Update(model, optimizer, batch_size, **update)
        with strategy.scope():
            optimizer.build(model.trainable_variables)
            self._positions = tf.Variable(
                tf.zeros([self.workers.count], tf.int64), trainable=False, name="positions"
            )
        checkpoint = tf.train.Checkpoint(
            model=model, optimizer=optimizer, positions=self._positions
        )
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
        """Position of the next example of this worker's stream."""
        return int(self._positions.numpy()[self.workers.index])

    def restore(self) -> bool:
        """Loads the last good checkpoint of the run, if there is one, and says whether."""
        latest = self._manager.latest_checkpoint
        if latest is None:
            return False
        self._manager.checkpoint.restore(latest).assert_existing_objects_matched()
        if self.workers.chief:
            self.run.rewind_metrics(self.step)
            if self.windows:
                self.windows.refill(r["loss"] for r in self.run.read_metrics() if "loss" in r)
        return True

    def save(self) -> str:
        """Writes a checkpoint; one that is already there for this step is kept.

        Of several workers only the chief writes: all variables are equal everywhere.

        Raises:
            NonFiniteLossError: when a weight is NaN or infinite; nothing is written then.
            OSError: on a full disk; earlier checkpoints stay.
        """
        if not bool(self._all_finite()):
            raise NonFiniteLossError(self._diagnosis("a weight", self.step))
        if not self.workers.chief:
            return ""
        try:
            with tensorflow_disk_errors(self.run.checkpoints):
                return self._manager.save(checkpoint_number=self.step)
        finally:  # what a failed save leaves would keep a full disk full
            for leftover in self.run.checkpoints.glob("*_temp"):
                shutil.rmtree(leftover, ignore_errors=True)

    def train(
        self,
        batches: Callable[[int, Part], tf.data.Dataset],
        steps: int,
        *,
        checkpoint_every: int,
        evaluate: Callable[[], dict[str, float]] | None = None,
        evaluate_every: int = 0,
        progress: bool = True,
    ) -> None:
        """Trains until `steps` updates are done, from wherever the state is.

        Args:
            batches: from a position and a worker's part, the endless data set of dicts `image`,
                `label`, `position`.
            steps: the total, not the number of further ones.
            checkpoint_every: updates between checkpoints; the end is one too.
            evaluate: gives numbers to record beside the loss.
            evaluate_every: updates between evaluations; 0 for none.
            progress: show a bar with rate and time left on stderr.

        Raises:
            NonFiniteLossError: with the step; the last good checkpoint is kept.
            Terminated: on SIGTERM or Ctrl-C of any worker, after the state is saved.
            WorkerLostError: when another worker has died.
        """
        stops = [steps, checkpoint_every, evaluate_every if evaluate else 0]
        progress = progress and self.workers.chief
        bar = tqdm(
            total=steps, initial=self.step, unit="step", disable=not progress, dynamic_ncols=True
        )
        writer = self._summary_writer()
        feed = distributed(self.strategy, self.batch_size, partial(batches, self.position))
        iterator = iter(feed)
        lost = self.workers.losses_told()
        with lost, signals_noted() as signals, bar, writer.as_default():
            while self.step < steps:
                begin, started = self.step, time.perf_counter()
                ahead = min([self.steps_per_loop, *(s - begin % s for s in stops if s)])
                numbers = self._advance(iterator, ahead)
                seconds = time.perf_counter() - started
                self._record(begin, numbers, seconds)
                bar.update(ahead)
                bar.set_postfix(loss=f"{numbers[-1, 0]:.4f}", refresh=False)
                # Before the checkpoint, so that a run killed in between evaluates again on resume.
                if evaluate and evaluate_every and self.step % evaluate_every == 0:
                    self._publish([{"step": self.step, **evaluate()}])
                # Any worker's signal, so that all stop at the same step.
                told = self.workers.exchange([signals[0] if signals else 0])
                signal = int(told.max())
                if self.step % checkpoint_every == 0 or self.step == steps or signal:
                    self.save()
                if signal:
                    self.workers.exchange([0])  # a worker that exits may end the others: wait
                    raise Terminated(signal, f"Saved at step {self.step}; --resume goes on.")

    def _summary_writer(self) -> Any:
        if self.workers.chief:
            return tf.summary.create_file_writer(str(self.run.tensorboard))
        return tf.summary.create_noop_writer()

    def _advance(self, iterator: Any, count: int) -> np.ndarray:
        """Does `count` updates and returns their numbers, [count, len(self._update.names)]."""
        begin = self.step
        numbers, position = self._run_loop(iterator, tf.constant(count))
        numbers = numbers.numpy()
        finite = np.isfinite(numbers[:, 0])
        if not finite.all():
            raise NonFiniteLossError(self._diagnosis("the loss", begin + int(np.argmin(finite))))
        # Updates that a float16 overflow left out have taken their batch and count as well.
        self.optimizer.iterations.assign(begin + count)
        self._positions.assign(self.workers.exchange([int(position) + 1])[:, 0])
        return numbers

    def _loop(self, iterator: Any, count: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        numbers = tf.TensorArray(tf.float32, size=count)
        position = tf.constant(0, tf.int64)
        for index in tf.range(count):
            batch = next(iterator)
            shares = self.strategy.run(self._update, args=(batch["image"], batch["label"]))
            sums = self.strategy.reduce(tf.distribute.ReduceOp.SUM, shares, axis=None)
            numbers = numbers.write(index, sums)
            local = self.strategy.experimental_local_results(batch["position"])
            position = tf.reduce_max(tf.concat(local, axis=0))
        return numbers.stack(), position

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

    def _record(self, begin: int, numbers: np.ndarray, seconds: float) -> None:
        rate = round(len(numbers) * self.batch_size / seconds, 2)
        records = []
        for step, row in enumerate(numbers, begin):
            learning_rate = float(self.learning_rate(step))
            found = {
                name: float(value)
                for name, value in zip(self._update.names, row, strict=True)
                if np.isfinite(value)  # a gradient that overflowed has no norm
            }
            if found.get("weight_norm"):
                found["effective_learning_rate"] = learning_rate / found["weight_norm"] ** 2
            if self.windows:
                found |= self.windows.update(found["loss"])
            found |= {"learning_rate": learning_rate, "images_per_second": rate}
            records.append({"step": step + 1, **found})
        self._publish(records)

    def _publish(self, records: list[dict[str, Any]]) -> None:
        """Writes records to metrics.jsonl and TensorBoard."""
        if not self.workers.chief:
            return
        self.run.append_metrics(records)
        for record in records:
            for name, value in record.items():
                if name != "step":
                    tf.summary.scalar(name, value, step=record["step"])
