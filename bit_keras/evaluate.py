"""Predictions over a whole data set and the numbers made of them. Every example counts once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

TOP = 5


@dataclass(frozen=True)
class Predictions:
    """The best classes of N examples.

    Attributes:
        index: int64 [N], the example's place in its split.
        label: int64 [N], the true class; of multi-label data float32 [N, K] of 0 and 1.
        classes: int64 [N, k], classes by falling probability.
        probabilities: float32 [N, k].
    """

    index: np.ndarray
    label: np.ndarray
    classes: np.ndarray
    probabilities: np.ndarray


@dataclass(frozen=True)
class Evaluation:
    """Accuracy of a classifier on one split.

    Attributes:
        examples: how many were counted.
        top1: share of examples whose best class is the true one, 0…1.
        top5: share whose true class is among the best five (or fewer, with fewer classes).
        balanced: mean over the classes of `per_class`.
        per_class: top-1 accuracy of each class by name; None for a class without examples.
        confusion: int64 [K, K], rows are true classes, columns predicted ones.
    """

    examples: int
    top1: float
    top5: float
    balanced: float
    per_class: dict[str, float | None]
    confusion: np.ndarray

    def as_json(self) -> dict[str, Any]:
        """All numbers, JSON-ready."""
        return {**vars(self), "confusion": self.confusion.tolist()}


class Predictor:
    """Finds the best classes of examples; compiled once, used for any number of data sets.

    Args:
        model: maps images to logits [B, K].
        strategy: where to run; the current one when left out.
        top: classes to keep of each example, at most K.
    """

    def __init__(
        self,
        model: keras.Model,
        strategy: tf.distribute.Strategy | None = None,
        top: int = TOP,
    ) -> None:
        self.model = model
        self.strategy = strategy or tf.distribute.get_strategy()
        self.top = min(top, model.output_shape[-1])
        self._compiled = tf.function(self._step)

    def _replica(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        logits = tf.cast(self.model(images, training=False), tf.float32)
        return tf.math.top_k(tf.nn.softmax(logits), self.top)

    def _step(self, batch: Any) -> list[tf.Tensor]:
        values, classes = self.strategy.run(self._replica, args=(batch["image"],))
        parts = (batch["weight"], batch["index"], batch["label"], classes, values)
        return [tf.concat(self.strategy.experimental_local_results(part), 0) for part in parts]

    def __call__(
        self, batches: tf.data.Dataset, *, progress: bool = False, total: int | None = None
    ) -> Predictions:
        """The best classes of every example.

        Args:
            batches: as `data.eval_batches` makes them: dicts with image, label, index and weight.
            progress: show a bar on stderr.
            total: number of examples, for the bar.

        Raises:
            ValueError: when there is not one example.
        """
        rows: list[list[np.ndarray]] = []
        bar = tqdm(total=total, unit="image", desc="evaluating", disable=not progress, leave=False)
        with bar:
            for batch in self.strategy.experimental_distribute_dataset(batches):
                weight, *rest = (part.numpy() for part in self._compiled(batch))
                rows.append([part[weight > 0] for part in rest])
                bar.update(len(rows[-1][0]))
        if not sum(len(row[0]) for row in rows):
            raise ValueError("There is not one readable example to evaluate. Check the data set.")
        index, label, classes, values = (np.concatenate(c) for c in zip(*rows, strict=True))
        return Predictions(index, label, classes.astype(np.int64), values)


def measure(predictions: Predictions, class_names: Sequence[str]) -> Evaluation:
    """Accuracy and confusion matrix of predictions.

    Example:
        >>> found = Predictions(*map(np.array, ([0, 1], [0, 1], [[0, 1], [0, 1]], [[1, 0]] * 2)))
        >>> measure(found, ["cat", "dog"]).top1
        0.5
    """
    count = len(class_names)
    hits = predictions.classes == predictions.label[:, None]
    confusion = np.zeros((count, count), np.int64)
    np.add.at(confusion, (predictions.label, predictions.classes[:, 0]), 1)
    totals = confusion.sum(1)
    shares = [float(confusion[i, i] / totals[i]) if totals[i] else None for i in range(count)]
    return Evaluation(
        examples=len(hits),
        top1=float(hits[:, 0].mean()),
        top5=float(hits[:, :TOP].any(1).mean()),
        balanced=float(np.mean([share for share in shares if share is not None])),
        per_class=dict(zip(class_names, shares, strict=True)),
        confusion=confusion,
    )


@dataclass(frozen=True)
class MultiLabelEvaluation:
    """How well a multi-label classifier ranks the classes of each example.

    Attributes:
        examples: how many were counted.
        top1: share of examples whose best class is one of theirs, 0…1.
        top5: share with one of theirs among the best five.
        label_precision: of an example's n classes, the share among its n best ones; the mean.
    """

    examples: int
    top1: float
    top5: float
    label_precision: float

    def as_json(self) -> dict[str, Any]:
        """All numbers, JSON-ready."""
        return dict(vars(self))


def measure_multi_label(predictions: Predictions) -> MultiLabelEvaluation:
    """Measures predictions on multi-label data.

    Examples without a label do not count. An example with more labels than there are predicted
    classes is judged by those that there are.

    Example:
        >>> hot = np.array([[1, 1, 0], [0, 0, 1]], np.float32)
        >>> best = np.array([[0, 2], [2, 1]])
        >>> measure_multi_label(Predictions(np.arange(2), hot, best, best)).label_precision
        0.75
    """
    labelled = predictions.label.sum(1) > 0
    hot, classes = predictions.label[labelled], predictions.classes[labelled]
    hits = np.take_along_axis(hot, classes, 1) > 0
    counts = np.minimum(hot.sum(1).astype(np.int64), classes.shape[1])
    asked = np.arange(classes.shape[1]) < counts[:, None]
    return MultiLabelEvaluation(
        examples=len(hits),
        top1=float(hits[:, 0].mean()),
        top5=float(hits[:, :TOP].any(1).mean()),
        label_precision=float(((hits & asked).sum(1) / counts).mean()),
    )
