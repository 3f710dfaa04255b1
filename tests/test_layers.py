import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from bit_keras import GroupNormalization, StandardizedConv2D
from bit_keras.layers import standardize_kernel, standardized_convolutions, using_kernels

POLICIES = ["float32", "float64", "mixed_float16", "mixed_bfloat16", "bfloat16"]
# Layer, arguments, shape of an input. Both layers must pass every conformance test below.
LAYERS = [
    pytest.param(GroupNormalization, {"groups": 4}, (2, 5, 6, 8), id="norm"),
    pytest.param(GroupNormalization, {"groups": 2, "epsilon": 0.1}, (2, 8), id="norm-rank2"),
    pytest.param(StandardizedConv2D, {"filters": 6, "kernel_size": 3}, (2, 7, 6, 4), id="conv"),
    pytest.param(
        StandardizedConv2D,
        {"filters": 4, "kernel_size": (1, 5), "strides": (1, 2), "use_bias": True, "groups": 2},
        (2, 7, 6, 4),
        id="conv-groups",
    ),
    pytest.param(
        StandardizedConv2D,
        {"filters": 4, "kernel_size": 3, "padding": "same", "dilation_rate": 2},
        (1, 7, 7, 3),
        id="conv-same",
    ),
]
conformance = pytest.mark.parametrize(("cls", "arguments", "shape"), LAYERS)


def random(*shape, seed=0, dtype="float32"):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@conformance
def test_config_round_trip(cls, arguments, shape):
    layer = cls(**arguments, dtype="mixed_bfloat16", name="mine", trainable=False)
    config = layer.get_config()
    for name in arguments:
        assert name in config
    again = cls.from_config(config)
    assert again.get_config() == config
    registered = keras.layers.deserialize(keras.layers.serialize(layer))
    assert type(registered) is cls
    assert registered.get_config() == config


@conformance
def test_saves_and_loads(cls, arguments, shape, tmp_path):
    model = keras.Sequential([keras.Input(shape[1:]), cls(**arguments)])
    for variable in model.weights:
        variable.assign(random(*variable.shape, seed=3))
    model.save(tmp_path / "layer.keras")
    again = keras.models.load_model(tmp_path / "layer.keras")
    x = random(*shape)
    np.testing.assert_array_equal(model(x), again(x))


@conformance
@pytest.mark.parametrize("policy", POLICIES)
def test_dtype_policies(cls, arguments, shape, policy):
    layer = cls(**arguments, dtype=policy)
    outputs = layer(random(*shape))
    policy = keras.dtype_policies.get(policy)
    assert keras.backend.standardize_dtype(outputs.dtype) == policy.compute_dtype
    assert {v.dtype for v in layer.weights} == {policy.variable_dtype}
    single = cls(**arguments, dtype="float32")
    single.build(shape)
    for mine, other in zip(single.weights, layer.weights, strict=True):
        mine.assign(ops.cast(other, "float32"))
    tolerance = {"float32": 1e-6, "float64": 1e-5, "float16": 2e-2}.get(policy.compute_dtype, 0.15)
    np.testing.assert_allclose(
        ops.cast(outputs, "float32"), single(random(*shape)), rtol=0, atol=tolerance
    )


@conformance
def test_symbolic_shapes_are_the_eager_ones(cls, arguments, shape):
    layer = cls(**arguments)
    symbolic = layer(keras.Input(batch_shape=shape))
    eager = layer(random(*shape))
    assert tuple(symbolic.shape) == tuple(eager.shape)
    assert tuple(layer.compute_output_shape(shape)) == tuple(eager.shape)
    unknown = (None,) * (len(shape) - 1) + shape[-1:]
    dynamic = layer(keras.Input(batch_shape=unknown))
    assert tuple(dynamic.shape) == (None,) * (len(shape) - 1) + tuple(eager.shape[-1:])


@conformance
def test_any_size_in_a_graph(cls, arguments, shape):
    layer = cls(**arguments)
    x = random(*shape)
    expected = layer(x)
    unknown = [None] * (len(shape) - 1) + [shape[-1]]
    graph = tf.function(layer, input_signature=[tf.TensorSpec(unknown, "float32")])
    np.testing.assert_allclose(graph(x), expected, atol=1e-6)


@conformance
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_gradients_reach_every_weight_and_the_input(cls, arguments, shape, policy):
    layer = cls(**arguments, dtype=policy)
    layer.build(shape)
    x = tf.constant(random(*shape))
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(tf.cast(layer(x), "float32") ** 3)
    for gradient in tape.gradient(loss, [x, *[v.value for v in layer.trainable_weights]]):
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 0


# GroupNormalization


@pytest.mark.parametrize("shape", [(3, 64), (3, 5, 64), (3, 5, 7, 64), (3, 2, 3, 4, 64)])
@pytest.mark.parametrize("groups", [1, 4, 8])
def test_group_normalization_equals_keras_own(shape, groups):
    ours, theirs = GroupNormalization(groups), keras.layers.GroupNormalization(groups, epsilon=1e-5)
    x = 3 * random(*shape) + 1
    ours.build(shape)
    theirs.build(shape)
    for seed, (mine, other) in enumerate(zip(ours.weights, theirs.weights, strict=True)):
        value = random(*mine.shape, seed=seed)
        mine.assign(value)
        other.assign(value)
    np.testing.assert_allclose(ours(x), theirs(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("offset", "tolerance"), [(3, 1e-5), (100, 1e-4), (1e4, 1e-2)])
def test_group_normalization_far_from_zero(offset, tolerance):
    # E[x²] − E[x]² would lose all digits where the mean is many standard deviations.
    x = random(2, 8, 8, 64) + np.float32(offset)
    exact = GroupNormalization(dtype="float64")(x.astype("float64"))
    np.testing.assert_allclose(GroupNormalization()(x), exact, rtol=0, atol=tolerance)


def test_group_normalization_gives_each_group_mean_0_and_variance_1():
    y = np.asarray(GroupNormalization(4)(5 * random(2, 9, 9, 16) - 7)).reshape(2, 81, 4, 4)
    np.testing.assert_allclose(y.mean((1, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(y.var((1, 3)), 1, atol=1e-4)


def test_group_normalization_treats_images_apart():
    x = random(4, 6, 6, 32)
    layer = GroupNormalization()
    np.testing.assert_allclose(layer(x)[1:2], layer(x[1:2]), atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 1e4])
@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_group_normalization_of_a_constant_image_is_finite(value, policy):
    y = GroupNormalization(dtype=policy)(np.full((2, 8, 8, 64), value, "float32"))
    assert np.isfinite(np.asarray(y, "float32")).all()


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_group_normalization_of_large_activations_does_not_overflow(policy):
    x = 1e4 * random(2, 8, 8, 64)  # squares of 1e4 are beyond float16
    y = np.asarray(GroupNormalization(dtype=policy)(x), "float32")
    np.testing.assert_allclose(y, GroupNormalization()(x), atol=0.05)


@pytest.mark.parametrize("shape", [(2, 4, 4, 48), (2, 16), (2, 4, 4, None), (32,)])
def test_groups_that_do_not_divide_the_channels_are_an_error(shape):
    with pytest.raises(ValueError, match=r"32 groups of 'norm' must divide .* Received"):
        GroupNormalization(name="norm").build(shape)


@pytest.mark.parametrize("groups", [0, -1])
def test_groups_below_one_are_an_error(groups):
    with pytest.raises(ValueError, match=f"at least 1. Received: {groups}"):
        GroupNormalization(groups)


# StandardizedConv2D


def test_standardized_kernels_have_mean_0_and_variance_1():
    kernel = np.asarray(standardize_kernel(3 * random(3, 3, 8, 16) + 2))
    np.testing.assert_allclose(kernel.mean((0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(kernel.var((0, 1, 2)), 1, atol=1e-5)


def test_standardization_has_the_reference_epsilon():
    kernel = 1e-5 * random(3, 3, 8, 16, dtype="float64")  # variance 1e-10, that of epsilon
    centred = kernel - kernel.mean((0, 1, 2))
    expected = centred / np.sqrt(kernel.var((0, 1, 2)) + 1e-10)
    np.testing.assert_allclose(standardize_kernel(kernel), expected, rtol=1e-9)


def test_constant_kernels_become_zero():
    assert not np.any(standardize_kernel(np.full((3, 3, 2, 4), 5.0)))


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("float16", "float32"), ("bfloat16", "float32"), ("float32", "float32"), ("float64",) * 2],
)
def test_kernels_are_standardized_in_float32_at_least(dtype, expected):
    kernel = ops.cast(1e4 * random(3, 3, 8, 4), dtype)
    result = standardize_kernel(kernel)
    assert keras.backend.standardize_dtype(result.dtype) == expected
    np.testing.assert_allclose(np.var(result, axis=(0, 1, 2)), 1, atol=1e-4)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_large_kernels_do_not_overflow(policy):
    layer = StandardizedConv2D(4, 3, dtype=policy)
    layer.build((None, None, None, 8))
    layer.kernel.assign(1e5 * random(3, 3, 8, 4))  # beyond float16 already unsquared
    assert np.isfinite(np.asarray(layer(random(1, 5, 5, 8)), "float32")).all()


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_convolution_of_large_activations_is_finite(policy):
    x = np.full((1, 6, 6, 1), 1e4, "float32")
    y = StandardizedConv2D(4, 3, dtype=policy)(x)
    assert np.isfinite(np.asarray(y, "float32")).all()


@pytest.mark.parametrize("size", [(8, 8), (9, 9), (8, 11), (1, 2)])
@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 1, "strides": 2},
        {"kernel_size": 2, "strides": 2},
        {"kernel_size": 3},
        {"kernel_size": 3, "strides": 2},
        {"kernel_size": 4},
        {"kernel_size": 7, "strides": 2},
        {"kernel_size": (3, 5), "strides": (2, 1)},
        {"kernel_size": 3, "groups": 2},
        {"kernel_size": 7, "strides": 2, "groups": 4},
        {"kernel_size": 3, "dilation_rate": 2},
        {"kernel_size": 3, "dilation_rate": (1, 3)},
        {"kernel_size": 5, "dilation_rate": 2, "groups": 2},
    ],
    ids=str,
)
def test_fixed_padding_is_zero_padding_and_a_valid_convolution(size, arguments):
    ours = StandardizedConv2D(8, **arguments)
    x = random(2, *size, 4)
    y = ours(x)
    pads = [
        ((k - 1) * d // 2, (k - 1) * d - (k - 1) * d // 2)
        for k, d in zip(ours.kernel_size, ours.dilation_rate, strict=True)
    ]
    plain = keras.layers.Conv2D(8, **arguments, use_bias=False)
    padded = keras.layers.ZeroPadding2D(pads)(x)
    plain.build(padded.shape)
    plain.kernel.assign(standardize_kernel(ours.kernel))
    np.testing.assert_allclose(y, plain(padded), atol=1e-5)
    assert tuple(ours.compute_output_shape(x.shape)) == tuple(y.shape)


def test_fixed_padding_differs_from_same_when_strided():
    x = random(1, 8, 8, 3)
    fixed, same = (StandardizedConv2D(4, 3, 2, padding=padding) for padding in ("fixed", "same"))
    fixed.build(x.shape)
    same.build(x.shape)
    same.kernel.assign(fixed.kernel)
    assert np.abs(fixed(x) - same(x)).max() > 0.1


def test_stored_kernel_stays_raw():
    layer = StandardizedConv2D(4, 3)
    layer.build((None, None, None, 8))
    raw = 3 * random(3, 3, 8, 4) + 1
    layer.kernel.assign(raw)
    layer(random(1, 5, 5, 8))
    np.testing.assert_array_equal(layer.kernel, raw)


def test_output_ignores_scale_and_offset_of_each_filter():
    layer, x = StandardizedConv2D(4, 3), random(1, 6, 6, 8)
    before = layer(x)
    layer.kernel.assign(np.array([1, 2, 3, 4]) * layer.kernel + np.array([0, 1, -1, 5]))
    np.testing.assert_allclose(layer(x), before, atol=1e-4)


def test_no_bias_by_default():
    layer = StandardizedConv2D(4, 3)
    layer.build((None, None, None, 3))
    assert [v.name for v in layer.weights] == ["kernel"]


@pytest.mark.parametrize("padding", ["causal", "FIXED", None, 1])
def test_unknown_padding_is_an_error(padding):
    with pytest.raises(ValueError, match="'fixed', 'valid' or 'same'. Received"):
        StandardizedConv2D(4, 3, padding=padding)


def test_channels_first_is_an_error():
    with pytest.raises(ValueError, match="channels last"):
        StandardizedConv2D(4, 3, data_format="channels_first")


@pytest.fixture
def two_layers():
    return keras.Sequential(
        [keras.Input((6, 6, 3)), StandardizedConv2D(8, 3), StandardizedConv2D(4, 3, 2)]
    )


def folded(model):
    convolutions = standardized_convolutions(model)
    return using_kernels(
        convolutions, [tf.constant(layer.standardized_kernel()) for layer in convolutions]
    )


def test_kernels_in_use_compute_the_same(two_layers):
    x = random(2, 6, 6, 3)
    expected = two_layers(x)
    with folded(two_layers):
        np.testing.assert_allclose(two_layers(x), expected, atol=1e-5)


def test_kernels_in_use_are_what_is_convolved_with(two_layers):
    zeros = [tf.zeros((3, 3, 3, 8)), tf.zeros((3, 3, 8, 4))]
    with using_kernels(standardized_convolutions(two_layers), zeros):
        assert not np.any(two_layers(random(2, 6, 6, 3)))


def test_kernels_in_use_are_traced_without_standardization(two_layers):
    def operations(manager):
        function = tf.function(lambda x: two_layers(x))
        with manager:
            graph = function.get_concrete_function(tf.TensorSpec((1, 6, 6, 3))).graph
        return {operation.type for operation in graph.get_operations()}

    assert "Rsqrt" in operations(contextlib.nullcontext())
    assert not {"Rsqrt", "ReadVariableOp"} & operations(folded(two_layers))


def test_kernels_follow_the_weights_again_after_folding(two_layers):
    x = random(2, 6, 6, 3)
    before = two_layers(x)
    with pytest.raises(RuntimeError), folded(two_layers):
        raise RuntimeError
    for layer in two_layers.layers:
        layer.kernel.assign(random(*layer.kernel.shape, seed=9))
    assert np.abs(two_layers(x) - before).max() > 0.1
