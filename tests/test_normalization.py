import numpy as np
import pytest
import tensorflow as tf

from bit_keras.normalization import group_normalization

GROUPS, EPSILON = 4, 1e-5
SHAPES = [
    pytest.param(shape, id=f"rank{len(shape)}")
    for shape in ((3, 16), (3, 7, 16), (2, 5, 6, 16), (2, 3, 4, 5, 16))
]


def ours(x, gamma, beta):
    return group_normalization(x, gamma, beta, GROUPS, EPSILON)


def plain(x, gamma, beta):
    """The formula, differentiated by TensorFlow."""
    shape = tf.shape(x)
    grouped = tf.reshape(x, [shape[0], -1, GROUPS, x.shape[-1] // GROUPS])
    mean, variance = tf.nn.moments(grouped, [1, 3], keepdims=True)
    normalized = (grouped - mean) * tf.math.rsqrt(variance + EPSILON)
    return tf.reshape(normalized, shape) * gamma + beta


def arguments(shape, dtype="float64", seed=0):
    """x, gamma, beta and a gradient of the output."""
    rng = np.random.default_rng(seed)
    shapes = (shape, shape[-1:], shape[-1:], shape)
    x, gamma, beta, upstream = (tf.constant(rng.normal(size=s), dtype) for s in shapes)
    return 2 * x + 1, gamma, beta, upstream


def first(function, x, gamma, beta, upstream):
    """Gradients of x, gamma and beta."""
    with tf.GradientTape() as tape:
        tape.watch([x, gamma, beta])
        y = function(x, gamma, beta)
    return tape.gradient(y, [x, gamma, beta], upstream)


def second(function, x, gamma, beta, upstream):
    """Gradients of a sum of the squared gradients, also that of the output's gradient."""
    sources = [x, gamma, beta, upstream]
    with tf.GradientTape() as tape:
        tape.watch(sources)
        found = first(function, *sources)
        loss = tf.add_n([tf.reduce_sum(g**2) for g in found])
    return tape.gradient(loss, [x, gamma, upstream])  # beta is in no gradient


def assert_all_close(found, expected, rtol):
    """Relative to the largest value of each: single ones are near zero by chance."""
    for a, b in zip(found, expected, strict=True):
        largest = np.abs(b).max()
        assert largest > 1e-3
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * largest)


@pytest.mark.parametrize("shape", SHAPES)
def test_output_and_gradients_are_those_of_the_plain_formula(shape):
    x, gamma, beta, upstream = arguments(shape)
    assert_all_close([ours(x, gamma, beta)], [plain(x, gamma, beta)], 1e-10)
    found = first(ours, x, gamma, beta, upstream)
    assert_all_close(found, first(plain, x, gamma, beta, upstream), 1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_second_derivatives_are_those_of_the_plain_formula(shape):
    given = arguments(shape, seed=1)
    assert_all_close(second(ours, *given), second(plain, *given), 1e-9)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_gradients_of_half_precision_inputs_have_their_dtype(dtype):
    x, gamma, beta, upstream = arguments((2, 5, 6, 16), "float32")
    half = tf.cast(x, dtype)
    found = first(ours, half, gamma, beta, upstream)
    assert [g.dtype for g in found] == [half.dtype, tf.float32, tf.float32]
    exact = first(plain, tf.cast(half, "float32"), gamma, beta, upstream)
    assert_all_close([tf.cast(found[0], "float32"), *found[1:]], exact, 1e-2)


def test_a_large_mean_costs_few_digits():
    x, gamma, beta, upstream = arguments((2, 12, 12, 16), "float32")
    x = (x - 1) / 2 + 1e4
    wide = [tf.cast(value, "float64") for value in (x, gamma, beta, upstream)]
    np.testing.assert_allclose(ours(x, gamma, beta), plain(*wide[:3]), rtol=0, atol=1e-2)
    assert_all_close(first(ours, x, gamma, beta, upstream), first(plain, *wide), 1e-2)


def test_dynamic_batch_height_and_width():
    signature = [tf.TensorSpec([None, None, None, 16], "float64"), tf.TensorSpec([16], "float64")]
    shapes = [signature[0], signature[1], signature[1], signature[0]]
    gradients = tf.function(lambda *given: first(ours, *given), input_signature=shapes)
    for shape in ((2, 5, 6, 16), (3, 4, 9, 16)):
        given = arguments(shape)
        assert_all_close(gradients(*given), first(plain, *given), 1e-10)
    assert gradients.experimental_get_tracing_count() == 1


def kept_for_the_gradient(function, shape):
    """Tensors of the forward pass that the backward pass reads, but inputs and small ones."""
    forward = set()

    def both(x, gamma, beta, upstream):
        with tf.GradientTape() as tape:
            tape.watch([x, gamma, beta])
            y = function(x, gamma, beta)
        forward.update(op.name for op in y.graph.get_operations())
        return tape.gradient(y, [x, gamma, beta], upstream)

    specs = [tf.TensorSpec(s, "float32") for s in (shape, shape[-1:], shape[-1:], shape)]
    traced = tf.function(both, autograph=False).get_concrete_function(*specs)
    small = shape[0] * shape[-1]  # a value for each channel of each image
    return {
        tensor.name
        for op in traced.graph.get_operations()
        if op.name not in forward
        for tensor in op.inputs
        if tensor.op.name in forward
        and not is_an_input(tensor)
        and not (tensor.shape.num_elements() or np.inf) <= small
    }


def is_an_input(tensor):
    while tensor.op.type == "Identity":
        tensor = tensor.op.inputs[0]
    return tensor.op.type == "Placeholder"


def test_the_gradient_keeps_nothing_of_the_inputs_size_but_the_inputs():
    shape = (2, 5, 6, 16)
    assert kept_for_the_gradient(ours, shape) == set()
    assert kept_for_the_gradient(plain, shape)  # copies are seen where there are some
