"""Many short trainings with one compiled loop of the library, its state set back each time.

Compiling takes as long as a hundred updates. Model, optimizer, `Trainer` and `Predictor` are
therefore made once for each size and number of classes, and get new weights for each training.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from benchmarks.transfer.targets import (
    BATCH_SIZE,
    LEARNING_RATE,
    MODEL,
    Target,
    steps_of,
)
from bit_keras import ResNetV2
from bit_keras.data import eval_batches, train_batches
from bit_keras.distribute import Part, make_strategy
from bit_keras.evaluate import Evaluation, Predictor, measure
from bit_keras.optimizers import sgd
from bit_keras.options import TransferOptions
from bit_keras.recipes import TransferRule
from bit_keras.runs import RunFolder
from bit_keras.sources import Source
from bit_keras.task import Task, open_task
from bit_keras.trainer import Trainer

STEPS_PER_LOOP = 25
EVALUATION_BATCH = 100


def initial_weights(start: str, num_classes: int, weights: str, seed: int) -> list[np.ndarray]:
    """The weights that a training starts from: pre-trained or random, the head zero."""
    keras.utils.set_random_seed(seed)
    source = weights if start == "pretrained" else None
    return ResNetV2.from_preset(MODEL, num_classes, source).get_weights()


def open_target(
    target: Target,
    source: Source,
    start: str,
    seed: int,
    indices: np.ndarray | None = None,
    learning_rate: float = LEARNING_RATE,
) -> Task:
    """The task of a target with its rule: `targets` has the settings.

    Args:
        target: what to learn.
        source: its data.
        start: a key of `STARTS`; decides the length of the schedule.
        seed: of order and augmentation.
        indices: the training examples; all of the split when left out.
        learning_rate: after the warm-up.
    """
    options = TransferOptions(
        data=source.name,
        output="-",
        model=MODEL,
        batch_size=BATCH_SIZE,
        steps=steps_of(start),
        learning_rate=learning_rate,
        resize=target.resize,
        crop=target.crop,
        flip=target.flip,
        seed=seed,
    )
    return open_task(options, None if indices is None else lambda *_: indices, source)


class Learner:
    """A model with a compiled training loop for tasks of one rule and number of classes.

    Args:
        rule: of all its tasks.
        num_classes: of all its tasks.
        folder: for what the training loop writes; it can be thrown away.
    """

    def __init__(self, rule: TransferRule, num_classes: int, folder: Path) -> None:
        strategy = make_strategy("one_device")
        with strategy.scope():
            self.model = ResNetV2.from_preset(MODEL, num_classes, None)
            self.optimizer = sgd(rule)
        self.rule, self.run = rule, RunFolder(folder)
        self.trainer = Trainer(
            self.model,
            self.optimizer,
            strategy,
            self.run,
            learning_rate=rule.learning_rate_at,
            batch_size=rule.batch_size,
            steps_per_loop=STEPS_PER_LOOP,
        )
        self.predictor = Predictor(self.model, strategy)

    def _reset(self, weights: list[np.ndarray]) -> None:
        """New weights, no momentum, step 0, nothing on disk."""
        self.model.set_weights(weights)
        for variable in self.optimizer.variables:
            variable.assign(np.zeros(variable.shape, variable.dtype))
        shutil.rmtree(self.run.path, ignore_errors=True)
        self.run.checkpoints.mkdir(parents=True)

    def learn(
        self,
        task: Task,
        weights: list[np.ndarray],
        *,
        seed: int,
        flip: bool,
        tested: np.ndarray | None = None,
    ) -> Evaluation:
        """Trains from given weights and evaluates.

        Args:
            task: with this learner's rule.
            weights: as `initial_weights` gives them.
            seed: of order and augmentation.
            flip: mirror half of the images.
            tested: [n] int, the test examples; all of the split when left out.
        """
        self._reset(weights)
        rule = task.rule

        def batches(start: int, part: Part) -> tf.data.Dataset:
            # From 0 on, always: `start` is where the training before this one ended.
            return train_batches(
                task.source,
                task.train_split,
                batch_size=part.batch_size,
                resize=rule.resize,
                crop=rule.crop,
                num_classes=task.source.num_classes,
                seed=seed,
                indices=task.indices,
                flip=flip,
            )

        self.trainer.train(batches, rule.steps, checkpoint_every=rule.steps, progress=False)
        found = self.predictor(
            eval_batches(
                task.source,
                task.eval_split,
                batch_size=EVALUATION_BATCH,
                size=rule.crop,
                indices=tested,
            )
        )
        return measure(found, task.source.class_names)


class Learners:
    """Makes a `Learner` for each rule and number of classes once.

    Args:
        folder: for what the training loops write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: dict[tuple, Learner] = {}

    def __call__(self, rule: TransferRule, num_classes: int) -> Learner:
        """The learner for tasks like this one."""
        # All but the sentence about where the numbers come from, and the sizes of the data in it.
        key = (rule.crop, rule.steps, num_classes)
        make: Callable[[], Learner] = partial(
            Learner, rule, num_classes, self.folder / "-".join(map(str, key))
        )
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]
