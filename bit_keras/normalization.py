"""Group normalisation as a function: few passes over the input, and a gradient that keeps no copy.

Whatever the processor, its time is that of reading and writing the input: passes are what counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def statistics_dtype(dtype: Any) -> tf.DType:
    """float64 for float64, else float32: half precision overflows on squares (1e4² > 65504)."""
    return tf.float64 if tf.as_dtype(dtype) == tf.float64 else tf.float32


def _means(x: tf.Tensor) -> tf.Tensor:
    """Means over space: [B, ..., C] → [B, 1, ..., C]."""
    # One axis after the other: TensorFlow sums over the last but one about twice as fast as over
    # several, and after the first little is left.
    for axis in range(len(x.shape) - 2, 0, -1):
        x = tf.reduce_mean(x, axis, keepdims=True)
    return x


class _GroupNormalization:
    """The function and its gradient for inputs [B, ..., C] of one rank and number of channels.

    Small tensors have the shape [B, groups, channels of a group], a value for each channel, or
    [B, groups, 1], one for each group. `wide` makes them [B, 1, ..., C], as the input is.
    """

    def __init__(self, shape: tf.TensorShape, groups: int, epsilon: float) -> None:
        self.channels, self.epsilon = shape[-1], epsilon
        self.grouped = (-1, groups, self.channels // groups)
        self.spread = (-1, *(1 for _ in shape[1:-1]), self.channels)

    def small(self, x: tf.Tensor) -> tf.Tensor:
        return tf.reshape(x, self.grouped)

    def wide(self, x: tf.Tensor) -> tf.Tensor:
        return tf.reshape(x, self.spread)

    def normalize(
        self, inputs: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, ...]]]:
        """The normalised inputs, in the statistics' dtype, and what makes gradients of theirs."""
        x = tf.cast(inputs, statistics_dtype(inputs.dtype))
        gamma, beta = self.small(gamma), self.small(beta)
        # E[(x − mean)²], not E[x²] − mean², which loses all digits where the mean is large. Around
        # the channels' own means first: a group's variance is the mean of its channels' variances
        # and the variance of their means.
        means = _means(x)
        variances = self.small(_means(tf.math.squared_difference(x, means)))
        means = self.small(means)
        mean = _group_mean(means)
        variance = _group_mean(variances + tf.math.squared_difference(means, mean))
        inverse = tf.math.rsqrt(variance + self.epsilon)
        scale = self.wide(inverse * gamma)
        shift = self.wide(beta - mean * inverse * gamma)

        @tf.autograph.experimental.do_not_convert
        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
            with tf.name_scope("group_norm_gradient"):
                return self.gradients(upstream, inputs, gamma, mean, inverse, scale)

        return x * scale + shift, gradient

    def gradients(
        self,
        upstream: tf.Tensor,
        inputs: tf.Tensor,
        gamma: tf.Tensor,
        mean: tf.Tensor,
        inverse: tf.Tensor,
        scale: tf.Tensor,
    ) -> tuple[tf.Tensor, ...]:
        """Gradients of inputs, gamma and beta from the output's and, of the forward pass, only the
        inputs themselves and small tensors.
        """
        x = tf.cast(inputs, upstream.dtype)
        of_beta = self.small(_means(upstream))  # and of gamma: means over space, of each image
        of_gamma = (self.small(_means(upstream * x)) - mean * of_beta) * inverse
        slope = -inverse * inverse * _group_mean(of_gamma * gamma)
        offset = -inverse * _group_mean(of_beta * gamma) - mean * slope
        slope, offset = (self.wide(value * tf.ones_like(gamma)) for value in (slope, offset))
        size = tf.cast(tf.reduce_prod(tf.shape(x)[1:-1]), x.dtype)
        return (
            tf.cast(upstream * scale + (x * slope + offset), inputs.dtype),
            tf.reshape(size * tf.reduce_sum(of_gamma, 0), [self.channels]),
            tf.reshape(size * tf.reduce_sum(of_beta, 0), [self.channels]),
        )


def _group_mean(x: tf.Tensor) -> tf.Tensor:
    """[B, groups, channels of a group] → [B, groups, 1]."""
    return tf.reduce_mean(x, 2, keepdims=True)


def group_normalization(
    inputs: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, groups: int, epsilon: float
) -> tf.Tensor:
    """Normalises each group of channels of each image, then scales and shifts each channel.

    The forward pass reads five tensors of the inputs' size and writes three, and the gradient keeps
    nothing of that size but the inputs.

    Args:
        inputs: [B, ..., C], float.
        gamma: [C], float32, or float64 when the inputs are.
        beta: [C], likewise.
        groups: number of groups, of neighbouring channels.
        epsilon: added to the (biased) variances.

    Returns:
        [B, ..., C], in gamma's dtype.

    Source: Wu & He 2018, arXiv 1803.08494.

    Example:
        >>> group_normalization(tf.ones([2, 8, 8, 64]), tf.ones(64), tf.zeros(64), 32, 1e-5).shape
        TensorShape([2, 8, 8, 64])
    """
    function = _GroupNormalization(inputs.shape, groups, epsilon)
    return tf.custom_gradient(function.normalize)(inputs, gamma, beta)
