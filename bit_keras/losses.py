"""The two losses of BiT: softmax for one label an image, sigmoid for any number of them."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

# A class without an example would start at a bias of minus infinity.
_LEAST_PRIOR = 1e-6


def softmax_loss(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Cross-entropy of each example, [B] from one-hot (or mixed) labels and logits [B, K]."""
    return tf.nn.softmax_cross_entropy_with_logits(labels, logits)


def sigmoid_loss(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Sigmoid cross-entropy of each example, summed over the classes, without re-balancing.

    TensorFlow computes max(x, 0) - x z + log(1 + exp(-|x|)), which no logit overflows.

    Args:
        labels: float [B, K], 1 for every class of the image, 0 for the others.
        logits: float [B, K].

    Returns:
        [B], in the logits' dtype.

    Source: reference authors, big_transfer issue 26; big_vision `utils.sigmoid_xent`.

    Example:
        >>> sigmoid_loss(tf.constant([[1.0, 0.0]]), tf.constant([[1000.0, -1000.0]])).numpy()
        array([0.], dtype=float32)
    """
    return tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(labels, logits), axis=-1)


def prior_bias(class_counts: np.ndarray, examples: int) -> np.ndarray:
    """The head's bias at which each sigmoid says how frequent its class is: log(p / (1 - p)).

    With tens of thousands of classes, a bias of 0 would make the first thousands of updates learn
    nothing but that every class is rare.

    Args:
        class_counts: int [K], examples of each class.
        examples: in all, at least 1.

    Returns:
        float32 [K].

    Example:
        >>> prior_bias(np.array([50, 1]), 100).round(2)
        array([ 0. , -4.6], dtype=float32)
    """
    prior = np.clip(class_counts / examples, _LEAST_PRIOR, 1 - _LEAST_PRIOR)
    return np.log(prior / (1 - prior)).astype(np.float32)
