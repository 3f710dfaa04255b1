import numpy as np
import pytest
import tensorflow as tf

from bit_keras.losses import prior_bias, sigmoid_loss, softmax_loss


def test_sigmoid_loss_is_the_definition_summed_over_the_classes():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (4, 7))
    labels = (rng.random((4, 7)) < 0.3).astype(np.float64)
    p = 1 / (1 + np.exp(-logits))
    expected = -(labels * np.log(p) + (1 - labels) * np.log(1 - p)).sum(1)
    np.testing.assert_allclose(sigmoid_loss(labels, logits), expected, rtol=1e-12)


def test_sigmoid_loss_and_its_gradient_stay_finite_for_any_logit():
    logits = tf.constant([[1e4, -1e4, 1e4, -1e4]])
    labels = tf.constant([[1.0, 0.0, 0.0, 1.0]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = sigmoid_loss(labels, logits)
    assert loss.numpy().tolist() == [20_000.0]
    assert tape.gradient(loss, logits).numpy().tolist() == [[0.0, 0.0, 1.0, -1.0]]


def test_softmax_loss_is_the_definition():
    logits = np.array([[1.0, 2.0, 0.5]])
    expected = -np.log(np.exp(2.0) / np.exp(logits).sum())
    np.testing.assert_allclose(softmax_loss(np.array([[0.0, 1.0, 0.0]]), logits), [expected])


def test_prior_bias_makes_every_sigmoid_say_how_frequent_its_class_is():
    bias = prior_bias(np.array([500, 30, 1]), 1000)
    np.testing.assert_allclose(1 / (1 + np.exp(-bias)), [0.5, 0.03, 0.001], rtol=1e-5)


@pytest.mark.parametrize("count", [0, 10])
def test_classes_of_none_or_all_start_at_a_finite_bias(count):
    assert np.isfinite(prior_bias(np.array([count]), 10)).all()


def test_at_the_prior_the_loss_is_the_entropy_of_the_classes():
    # What a head that knows nothing of the images can reach at best.
    counts, examples = np.array([200, 50, 5]), 1000
    p = counts / examples
    labels = np.repeat(np.eye(4)[:, :3], [200, 50, 5, 745], axis=0)
    logits = np.tile(prior_bias(counts, examples), (examples, 1))
    entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p)).sum()
    assert np.mean(sigmoid_loss(labels, logits.astype(np.float64))) == pytest.approx(entropy)
