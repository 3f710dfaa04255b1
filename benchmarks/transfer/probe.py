"""A linear classifier on frozen features: how far features go without being trained further."""

from __future__ import annotations

import keras
import numpy as np

from benchmarks.transfer.targets import MODEL
from bit_keras import ResNetV2
from bit_keras.data import eval_batches
from bit_keras.sources import Source

PENALTY = 1e-2  # half of it times the squared weights is added to the mean loss
STEPS = 500
BATCH = 100


class Features:
    """Features of a network that is not trained.

    Args:
        start: "probe" for pre-trained weights, "probe_random" for random ones.
        weights: as `from_preset` takes them.
        seed: of random weights.
    """

    def __init__(self, start: str, weights: str, seed: int) -> None:
        keras.utils.set_random_seed(seed)
        source = weights if start == "probe" else None
        self.model = ResNetV2.from_preset(MODEL, None, source)

    def __call__(
        self, source: Source, split: str, size: int, indices: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """float32 [n, 1024] and labels int64 [n], seen as test images are."""
        features, labels = [], []
        for batch in eval_batches(source, split, batch_size=BATCH, size=size, indices=indices):
            kept = batch["weight"].numpy() > 0
            features.append(np.asarray(self.model.predict_on_batch(batch["image"]))[kept])
            labels.append(batch["label"].numpy()[kept])
        return np.concatenate(features), np.concatenate(labels)


def logistic(
    features: np.ndarray, labels: np.ndarray, num_classes: int, penalty: float = PENALTY
) -> tuple[np.ndarray, np.ndarray]:
    """Multinomial logistic regression, by accelerated gradient descent on all examples.

    Args:
        features: float [n, d], standardised.
        labels: int [n].
        num_classes: K.
        penalty: on the weights, not on the bias.

    Returns:
        Weights [d, K] and bias [K].
    """
    features = np.hstack([features, np.ones((len(features), 1))]).astype(np.float64)
    targets = np.eye(num_classes)[labels]
    penalties = np.full((features.shape[1], 1), penalty)
    penalties[-1] = 0
    # The loss curves by no more than half the largest eigenvalue of the second moments.
    largest = np.linalg.norm(features, 2) ** 2 / len(features)
    rate = 1 / (largest / 2 + penalty)
    weights = ahead = np.zeros((features.shape[1], num_classes))
    for step in range(STEPS):
        logits = features @ ahead
        shares = np.exp(logits - logits.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        gradient = features.T @ (shares - targets) / len(features) + penalties * ahead
        new = ahead - rate * gradient
        ahead = new + step / (step + 3) * (new - weights)
        weights = new
    return weights[:-1], weights[-1]


def probe(
    train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], num_classes: int
) -> np.ndarray:
    """The confusion matrix of a linear probe, int64 [K, K]: rows are true classes.

    Args:
        train: features [n, d] and labels [n].
        test: the same for the examples to be told.
        num_classes: K.
    """
    mean, spread = train[0].mean(0), train[0].std(0) + 1e-6
    weights, bias = logistic((train[0] - mean) / spread, train[1], num_classes)
    found = (((test[0] - mean) / spread) @ weights + bias).argmax(1)
    confusion = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(confusion, (test[1], found), 1)
    return confusion
