import keras
import numpy as np
import pytest
import tensorflow as tf

from bit_keras.distribute import make_strategy
from bit_keras.evaluate import Predictions, Predictor, measure


def batches(logits, labels, batch):
    """Images that are the logits, padded to whole batches with weight 0."""
    count = len(labels)
    padded = -(-count // batch) * batch
    image = np.zeros((padded, logits.shape[1]), np.float32)
    image[:count] = logits
    return tf.data.Dataset.from_tensor_slices(
        {
            "image": image,
            "label": np.pad(labels, (0, padded - count)).astype(np.int64),
            "index": np.pad(np.arange(count), (0, padded - count)).astype(np.int64),
            "weight": (np.arange(padded) < count).astype(np.float32),
        }
    ).batch(batch)


@pytest.fixture(scope="module")
def identity():
    image = keras.Input((7,))
    return keras.Model(image, keras.layers.Identity()(image))


@pytest.mark.parametrize("strategy", ["one_device", "mirrored"])
def test_every_example_is_counted_once(identity, strategy):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(11, 7)).astype(np.float32), rng.integers(0, 7, 11)
    found = Predictor(identity, make_strategy(strategy))(batches(logits, labels, 4))
    assert sorted(found.index) == list(range(11))
    order = np.argsort(found.index)
    np.testing.assert_array_equal(found.label[order], labels)
    np.testing.assert_array_equal(found.classes[order], np.argsort(-logits, axis=1)[:, :5])
    evaluation = measure(found, list("abcdefg"))
    assert evaluation.examples == 11
    assert evaluation.top1 == pytest.approx((logits.argmax(1) == labels).mean())


def test_top5_of_three_classes_is_top3(identity):
    image = keras.Input((3,))
    model = keras.Model(image, keras.layers.Identity()(image))
    found = Predictor(model)(batches(np.eye(3, dtype=np.float32), np.array([1, 1, 2]), 2))
    assert found.classes.shape == (3, 3)
    assert measure(found, "abc").top5 == 1.0


def test_measure_by_hand():
    found = Predictions(
        index=np.arange(4),
        label=np.array([0, 0, 1, 3]),
        classes=np.array([[0, 1], [1, 0], [1, 0], [0, 1]]),
        probabilities=np.zeros((4, 2), np.float32),
    )
    evaluation = measure(found, ["a", "b", "c", "d"])
    assert (evaluation.top1, evaluation.top5) == (0.5, 0.75)
    assert evaluation.per_class == {"a": 0.5, "b": 1.0, "c": None, "d": 0.0}
    assert evaluation.balanced == 0.5
    assert evaluation.confusion.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [0] * 4, [1, 0, 0, 0]]


def test_nothing_to_evaluate_is_an_error(identity):
    with pytest.raises(ValueError, match="not one readable example"):
        Predictor(identity)(batches(np.zeros((0, 7)), np.zeros(0, int), 4))
