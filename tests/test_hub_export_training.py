"""Published modules in training: on two replicas, and in reduced precision."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from bit_keras import ResNetV2, export_module, load_module
from bit_keras.distribute import make_strategy

hub = pytest.importorskip("tensorflow_hub")
tf_keras = pytest.importorskip("tf_keras")

IMAGES = np.random.default_rng(0).random((8, 32, 32, 3), np.float32)
LABELS = np.arange(8) % 2


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    keras.utils.set_random_seed(0)
    return str(export_module(ResNetV2(26, 0.25), tmp_path_factory.mktemp("modules") / "features"))


def trained(path, strategy, steps=1):
    """Weights of a head and of the module in it, after some updates."""
    head = tf_keras.initializers.GlorotUniform(seed=0)  # a zero head would pass no gradient on
    with strategy.scope():
        layer = hub.KerasLayer(path, trainable=True)
        model = tf_keras.Sequential([
            tf_keras.layers.InputLayer((32, 32, 3)), layer,
            tf_keras.layers.Dense(2, kernel_initializer=head),
        ])  # fmt: skip
        model.compile(
            tf_keras.optimizers.SGD(0.01),
            tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
    before = [variable.numpy() for variable in layer.trainable_variables]
    data = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(8).repeat(steps)
    model.fit(data, epochs=1, steps_per_epoch=steps, verbose=0)
    return layer, before


def test_keras_layer_trains_on_both_replicas(module):
    strategy = make_strategy("mirrored")  # TensorFlow cannot have two of the same CPUs
    assert strategy.num_replicas_in_sync == 2
    layer, before = trained(module, strategy)
    assert len(layer.trainable_variables) == len(before) > 50
    for variable, old in zip(layer.trainable_variables, before, strict=True):
        copies = strategy.experimental_local_results(variable)
        assert len(copies) == 2
        np.testing.assert_array_equal(copies[0], copies[1])
        assert np.any(copies[0].numpy() != old)
    # Each replica saw a half, and the update is that of the whole batch.
    alone, _ = trained(module, tf.distribute.OneDeviceStrategy("CPU:0"))
    for one, other in zip(layer.trainable_variables, alone.trainable_variables, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-4)


def convolution_types(path):
    """Dtypes that the convolutions of a module compute in."""
    call = tf.saved_model.load(path).__call__.concrete_functions[0]
    nodes = [node for function in call.graph.as_graph_def().library.function
             for node in function.node_def]  # fmt: skip
    return {tf.as_dtype(node.attr["T"].type).name for node in nodes if node.op == "Conv2D"}


def test_module_computes_in_the_policy_it_was_exported_with(module, tmp_path):
    network = ResNetV2(26, 0.25, dtype="mixed_bfloat16")
    path = str(export_module(network, tmp_path / "module"))
    assert convolution_types(module) == {"float32"}
    assert convolution_types(path) == {"bfloat16"}
    for layer in (hub.KerasLayer(path, trainable=True), load_module(path)):
        variables = [v if isinstance(v, tf.Variable) else v.value for v in layer.weights]
        assert {variable.dtype for variable in variables} == {tf.float32}
        with tf.GradientTape() as tape:
            output = layer(tf.constant(IMAGES[:2]))
            loss = tf.reduce_sum(output**2)
        assert output.dtype == tf.float32
        assert all(gradient is not None for gradient in tape.gradient(loss, variables))
