"""A contestant: answers of our serving module, or of the same network of stock Keras layers.

python -m benchmarks.speed.keras_inference '{"kind": "serving", "module": "m", …}'
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

import bit_keras
from benchmarks.speed.answering import serve_answers
from benchmarks.speed.versions import VERSIONS

Answer = Callable[[tf.Tensor], np.ndarray]


def serving(module: str) -> Answer:
    """A module that `bit_keras.export_module` wrote, through its signature."""
    loaded = tf.saved_model.load(module)
    signature = loaded.signatures["serving_default"]

    # Held as an argument: a signature does not keep the module's constants.
    def answer(images: tf.Tensor, _loaded: Any = loaded) -> np.ndarray:
        return signature(images)["logits"].numpy()

    return answer


def stock(depth: int, width: float, classes: int, weights: str) -> Answer:
    """The network of stock Keras layers in a `tf.function`."""
    from benchmarks.speed.stock_keras import stock_resnet

    model = stock_resnet(depth, width, classes)
    bit_keras.load_npz(model, weights)
    call = tf.function(lambda images: model(2 * images - 1, training=False))
    return lambda images: call(images).numpy()


def product(dtype: str, side: int) -> Answer:
    """No network: the product of two matrices, whatever the images; what the processor can do."""
    matrix = tf.cast(tf.random.stateless_normal([side, side], [0, 0]), dtype)
    call = tf.function(tf.matmul)
    return lambda _: call(matrix, matrix)[:1, :1].numpy()


KINDS: dict[str, Callable[..., Answer]] = {
    "serving": serving,
    "stock": stock,
    "product": product,
}


def main() -> None:
    """Serves."""
    settings: dict[str, Any] = json.loads(sys.argv[1])
    images, kind = settings.pop("images"), settings.pop("kind")
    serve_answers(images, KINDS[kind](**settings), tf.constant, versions=VERSIONS)


if __name__ == "__main__":
    main()
