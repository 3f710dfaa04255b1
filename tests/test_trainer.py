import os
import signal
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from bit_keras import ResNetV2, hyperrule
from bit_keras.distribute import Part, make_strategy
from bit_keras.optimizers import sgd
from bit_keras.runs import RunFolder
from bit_keras.signals import Terminated
from bit_keras.trainer import NonFiniteLossError, Trainer

BATCH, CLASSES = 8, 3
RULE = replace(hyperrule(100, 32, 32).scaled(BATCH, steps=20), learning_rate=0.02, warmup_steps=2)


def stream(start, part, poison=None):
    """An endless stream that is a function of the position, with one NaN image if asked for."""

    def example(position):
        seed = tf.stack([tf.constant(0, tf.int64), position])
        image = tf.random.stateless_uniform((32, 32, 3), seed, -1.0, 1.0)
        if poison is not None:
            image = tf.where(position == poison, np.nan, image)
        label = tf.one_hot(position % CLASSES, CLASSES)
        return {"image": image + tf.reduce_max(label), "label": label, "position": position}

    dataset = tf.data.Dataset.range(start, 2**40).map(example)
    return dataset.batch(part.batch_size, drop_remainder=True)


def make_trainer(folder, strategy="one_device", rule=RULE, small=True, **changes):
    strategy = make_strategy(strategy)
    keras.utils.set_random_seed(0)
    with strategy.scope():
        if small:
            model = keras.Sequential(
                [keras.layers.Input((32, 32, 3)), keras.layers.Conv2D(4, 3, strides=4),
                 keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(CLASSES)]
            )  # fmt: skip
        else:
            model = ResNetV2(26, 0.5, CLASSES)
        optimizer = sgd(rule)
    return Trainer(
        model, optimizer, strategy, RunFolder(folder), learning_rate=rule.learning_rate_at,
        batch_size=BATCH, **changes,
    )  # fmt: skip


def train(trainer, steps=20, **changes):
    settings = {"checkpoint_every": 10, "progress": False, **changes}
    trainer.run.path.mkdir(parents=True, exist_ok=True)
    trainer.train(stream, steps, **settings)
    return [r["loss"] for r in trainer.run.read_metrics() if "loss" in r]


def weights(trainer):
    return [np.array(v) for v in trainer.model.variables]


def test_one_replica_and_two_have_the_same_losses(tmp_path):
    # In float32 the difference of summation orders grows with every update; see golden/README.md.
    one = train(make_trainer(tmp_path / "one", small=False), steps=5)
    two = train(make_trainer(tmp_path / "two", "mirrored", small=False), steps=5)
    np.testing.assert_allclose(one, two, rtol=1e-5)
    assert max(one) > min(one) + 0.01  # there was something to compare


def test_steps_per_loop_do_not_change_the_result(tmp_path):
    runs = [make_trainer(tmp_path / str(k), steps_per_loop=k) for k in (1, 7)]
    losses = [train(trainer) for trainer in runs]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 20


def test_first_updates_follow_the_textbook(tmp_path):
    """Against SGD with momentum written out by hand."""
    trainer = make_trainer(tmp_path)
    variables = trainer.model.trainable_variables
    expected = [np.array(v) for v in variables]
    velocity = [np.zeros_like(v) for v in expected]
    reference = keras.models.clone_model(trainer.model)
    for step, batch in enumerate(stream(0, Part(0, 1, BATCH)).take(3)):
        for variable, value in zip(reference.trainable_variables, expected, strict=True):
            variable.assign(value)
        with tf.GradientTape() as tape:
            logits = reference(batch["image"])
            loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(batch["label"], logits))
        gradients = tape.gradient(loss, reference.trainable_variables)
        rate = float(RULE.learning_rate_at(step))
        for i, gradient in enumerate(gradients):
            velocity[i] = 0.9 * velocity[i] - rate * np.array(gradient)
            expected[i] = expected[i] + velocity[i]
    train(trainer, steps=3)
    for variable, value in zip(variables, expected, strict=True):
        np.testing.assert_allclose(np.array(variable), value, rtol=1e-5, atol=1e-7)


def test_resumed_run_ends_with_the_same_weights(tmp_path):
    whole = make_trainer(tmp_path / "whole")
    losses = train(whole)
    train(make_trainer(tmp_path / "parts"), steps=10)
    rest = make_trainer(tmp_path / "parts")
    assert rest.restore()
    assert (rest.step, rest.position) == (10, 10 * BATCH)
    assert train(rest) == losses
    for a, b in zip(weights(whole), weights(rest), strict=True):
        np.testing.assert_array_equal(a, b)


def test_resume_drops_records_after_the_checkpoint(tmp_path):
    trainer = make_trainer(tmp_path)
    losses = train(trainer, steps=20)
    trainer.run.append_metrics([{"step": 21, "loss": 9.0}])
    again = make_trainer(tmp_path)
    again.restore()
    assert [r["loss"] for r in again.run.read_metrics()] == losses


def test_restore_without_a_checkpoint_says_so(tmp_path):
    assert not make_trainer(tmp_path).restore()


def test_nan_loss_stops_with_its_step_and_keeps_the_last_checkpoint(tmp_path):
    trainer = make_trainer(tmp_path)
    tmp_path.mkdir(exist_ok=True)
    with pytest.raises(NonFiniteLossError, match=r"step 13 .*checkpoints/step-10"):
        trainer.train(
            lambda start, part: stream(start, part, poison=13 * BATCH + 1), 20, checkpoint_every=5,
            progress=False,
        )  # fmt: skip
    again = make_trainer(tmp_path)
    assert again.restore()
    assert again.step == 10
    assert all(np.isfinite(w).all() for w in weights(again))


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.model.trainable_variables[0].assign(np.inf * np.ones((3, 3, 3, 4)))
    with pytest.raises(NonFiniteLossError, match="A weight became"):
        trainer.save()
    assert not list(tmp_path.glob("checkpoints/step*"))


def test_a_full_disk_is_told_as_such_and_leaves_no_half_checkpoint(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path)
    train(trainer, steps=10)

    def save(checkpoint_number):
        (tmp_path / "checkpoints" / "step-11_temp").mkdir()
        raise tf.errors.ResourceExhaustedError(None, None, "x; No space left on device")

    monkeypatch.setattr(trainer._manager, "save", save)
    with pytest.raises(OSError, match="No space left to write .*Free some space"):
        trainer.save()
    names = {path.name.partition(".")[0] for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"checkpoint", "step-10"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_exits_with_its_number(tmp_path, number):
    trainer = make_trainer(tmp_path)

    def interrupt():
        os.kill(os.getpid(), number)
        return {"top1": 0.0}

    with pytest.raises(Terminated, match=str(128 + number)) as stop:
        train(trainer, evaluate=interrupt, evaluate_every=7, checkpoint_every=1000)
    assert "step 7" in stop.value.message
    again = make_trainer(tmp_path)
    assert again.restore()
    assert again.step == 7
    assert signal.getsignal(number) is not None


def test_metrics_and_tensorboard_are_written(tmp_path):
    trainer = make_trainer(tmp_path)
    train(trainer, evaluate=lambda: {"top1": 0.5}, evaluate_every=10)
    records = list(trainer.run.read_metrics())
    assert [r["step"] for r in records if "top1" in r] == [10, 20]
    assert {"step", "loss", "learning_rate", "images_per_second"} == set(records[0])
    assert records[1]["learning_rate"] == pytest.approx(float(RULE.learning_rate_at(1)))
    events = list(trainer.run.tensorboard.glob("events*"))
    tags = {
        value.tag
        for event in tf.compat.v1.train.summary_iterator(str(events[0]))
        for value in event.summary.value
    }
    assert {"loss", "top1", "learning_rate"} <= tags


def test_two_checkpoints_are_kept(tmp_path):
    train(make_trainer(tmp_path), checkpoint_every=5)
    kept = sorted(p.name for p in tmp_path.glob("checkpoints/*.index"))
    assert kept == ["step-15.index", "step-20.index"]


def test_batch_that_replicas_cannot_share_is_an_error(tmp_path):
    strategy = make_strategy("mirrored")
    with strategy.scope():
        model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(2)])
        optimizer = sgd(RULE)
    with pytest.raises(ValueError, match="2 replicas"):
        Trainer(model, optimizer, strategy, RunFolder(tmp_path),
                learning_rate=RULE.learning_rate_at, batch_size=7)  # fmt: skip
