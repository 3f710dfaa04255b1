"""A contestant: group normalisation by our layer and by Keras' own, and x + 1.

python -m benchmarks.speed.norm_worker '{"groups": 32, "epsilon": 1e-5}'
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import tensorflow as tf

import bit_keras
from benchmarks.speed.norm_answers import Forms, inputs, serve_norms
from benchmarks.speed.versions import VERSIONS


class Norms:
    """Our layer, Keras' own and x + 1, each compiled for a shape.

    Args:
        groups: of channels.
        epsilon: added to the variances.
    """

    def __init__(self, groups: int, epsilon: float) -> None:
        self.groups, self.epsilon = groups, epsilon

    def forms(self, shape: tuple[int, ...]) -> Forms:
        """All of them on the same inputs of a shape: by name, what does it once."""
        x, upstream, gamma, beta = map(tf.constant, inputs(shape))
        forms: Forms = {"read + write": partial(_compiled(lambda x: x + 1.0), x)}
        for name, kind in (
            ("ours", bit_keras.GroupNormalization),
            ("keras", keras.layers.GroupNormalization),
        ):
            layer = kind(groups=self.groups, epsilon=self.epsilon)
            layer.build(shape)
            layer.set_weights([gamma, beta])
            forms[name] = partial(_compiled(layer), x)
            forms[f"{name}, gradient"] = partial(_compiled(_gradient(layer)), x, upstream)
        return forms


def _compiled(call: Callable[..., Any]) -> Callable[..., Any]:
    return tf.function(call, autograph=False)


def _gradient(layer: Any) -> Callable[..., Any]:
    """Output and gradients; the output too, lest TensorFlow leaves it out."""

    def call(x: tf.Tensor, upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
        weights = layer.trainable_variables
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
        return (y, *tape.gradient(y, [x, *(w.value for w in weights)], upstream))

    return call


def main() -> None:
    """Serves."""
    norms = Norms(**json.loads(sys.argv[1]))
    serve_norms(norms.forms, lambda tensor: tensor.numpy(), VERSIONS)


if __name__ == "__main__":
    main()
