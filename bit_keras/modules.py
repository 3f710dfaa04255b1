"""A model as TensorFlow trackables: what a fine-tunable and a serving SavedModel are made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from bit_keras.layers import standardized_convolutions, using_kernels
from bit_keras.preprocess import decode_bytes, eval_view, to_model_range
from bit_keras.resnet import ResNetV2

# Constants live in the GraphDef, a protocol buffer, which cannot exceed 2 GB.
CONSTANT_BYTES = 1_500_000_000

_IMAGES = tf.TensorSpec([None, None, None, 3], tf.float32, name="images")


class Module(tf.Module):
    """A trackable whose variables are the attributes it is given, not found by looking around."""

    variables: Any = ()
    trainable_variables: Any = ()


def fine_tunable(model: ResNetV2) -> Any:
    """A trackable with the four members that `hub.KerasLayer` looks for."""

    # One graph for both modes: a BiT has no layer that computes anything else in training.
    @tf.function(input_signature=[_IMAGES])
    def outputs(images: tf.Tensor) -> tf.Tensor:
        images = tf.cast(to_model_range(images), model.input.dtype)
        return tf.cast(model(images, training=False), tf.float32)

    @tf.function
    def call(inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        return outputs(inputs)

    module = Module()
    module.__call__ = call
    for training in (True, False):
        call.get_concrete_function(tf.TensorSpec(_IMAGES.shape, _IMAGES.dtype, "inputs"), training)
    module.variables = [variable.value for variable in model.weights]
    # All are to be trained but the moving averages of batch norm, which only comparisons have.
    trained = [v for v in model.weights if not v.name.startswith("moving_")]
    module.trainable_variables = [variable.value for variable in trained]
    module.regularization_losses = []
    return module


def endpoints_of(model: ResNetV2) -> keras.Model:
    """The model with its outputs by name: features and, with a head, logits."""
    outputs = {"features": model.get_layer("features").output}
    if model.num_classes is not None:
        outputs["logits"] = model.output
    return keras.Model(model.input, outputs)


def answers(endpoints: keras.Model, images: tf.Tensor, multi_label: bool) -> dict[str, tf.Tensor]:
    """All that a serving module returns for images [B, H, W, 3] in [-1, 1], as float32."""
    found = endpoints(tf.cast(images, endpoints.input.dtype), training=False)
    answers = {name: tf.cast(value, tf.float32) for name, value in found.items()}
    if "logits" in answers:
        probabilities = tf.nn.sigmoid if multi_label else tf.nn.softmax
        answers["probabilities"] = probabilities(answers["logits"])
    return answers


def _holder(model: ResNetV2, variables: list[tf.Variable]) -> Callable[[tf.Tensor], Any]:
    """What keeps a frozen tensor: a constant, or a variable (added to the list) if too much."""
    size = sum(math.prod(weight.shape) for weight in model.weights)
    if size * tf.as_dtype(model.compute_dtype).size <= CONSTANT_BYTES:
        return tf.constant

    def hold(value: tf.Tensor) -> tf.Variable:
        variables.append(tf.Variable(value, trainable=False))
        return variables[-1]

    return hold


def serving(model: ResNetV2, image_size: int, multi_label: bool) -> tuple[Any, dict[str, Any]]:
    """A trackable and its signatures, traced with frozen weights."""
    module = Module()
    variables: list[tf.Variable] = []
    hold = _holder(model, variables)
    endpoints = endpoints_of(model)
    convolutions = standardized_convolutions(model)
    kernels = {id(layer.kernel) for layer in convolutions}
    frozen = [(w, hold(tf.identity(w.value))) for w in model.weights if id(w) not in kernels]

    # One function for both signatures, so that the graph holds everything once.
    @tf.function(input_signature=[_IMAGES])
    def answer(images: tf.Tensor) -> dict[str, tf.Tensor]:
        with keras.StatelessScope(state_mapping=frozen):
            return answers(endpoints, images, multi_label)

    @tf.function(input_signature=[_IMAGES])
    def serving_default(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return answer(to_model_range(images))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def serving_bytes(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        view = tf.TensorSpec([image_size, image_size, 3], tf.float32)
        return answer(
            tf.map_fn(lambda x: eval_view(decode_bytes(x), image_size), image_bytes,
                      fn_output_signature=view)
        )  # fmt: skip

    # The kernels in the dtype they are used in: a half-precision module is half as large.
    standardized = [layer.standardized_kernel() for layer in convolutions]
    held = [hold(tf.cast(kernel, model.compute_dtype)) for kernel in standardized]
    with using_kernels(convolutions, held):
        signatures = {
            "serving_default": serving_default.get_concrete_function(),
            "serving_bytes": serving_bytes.get_concrete_function(),
        }
    module.frozen = variables
    return module, signatures
