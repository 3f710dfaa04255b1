"""What must not change a training's result: replicas, micro-batches, rematerialisation, loops.

A rounding error can move an activation across the kink of a ReLU, which changes the gradient by
much more than the rounding. So a float32 difference is in proportion to how far the weights moved;
the float64 test shows that nothing but rounding is behind it.
"""

import functools
import json
import subprocess
import sys
import tempfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from bit_keras import ResNetV2
from bit_keras.distribute import make_strategy
from bit_keras.optimizers import SGD
from bit_keras.remat import rematerialised
from bit_keras.runs import RunFolder
from bit_keras.trainer import Trainer
from bit_keras.update import Update

CLASSES, SIDE, BATCH, UPDATES = 3, 32, 8, 5
RATE = 5e-4  # moves the largest weight by about 2e-3 in five updates
TOLERANCE = 1e-5


def examples(count):
    """Noise whose brightness tells the class: [count, SIDE, SIDE, 3] and one-hot labels."""
    labels = np.arange(count) % CLASSES
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, (count, SIDE, SIDE, 3))
    images = noise + 0.5 * (labels - 1)[:, None, None, None]
    return images.astype(np.float32), np.eye(CLASSES, dtype=np.float32)[labels]


def batches(start, part):
    images, labels = examples(BATCH * UPDATES)
    data = {"image": images, "label": labels, "position": np.arange(len(images))}
    data = tf.data.Dataset.from_tensor_slices(data).repeat()
    return data.batch(part.batch_size, drop_remainder=True)


def make_trainer(
    folder, *, strategy="one_device", dtype="float32", norm="gn", standardized=True, rate=RATE,
    remat=False, loss_scale=None, **settings,
):  # fmt: skip
    strategy = make_strategy(strategy)
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = ResNetV2(26, 0.5, CLASSES, dtype, norm=norm, weight_standardization=standardized)
        optimizer = SGD(rate, momentum=0.9, l2=1e-4)
        if loss_scale:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=loss_scale)
    settings = {"steps_per_loop": UPDATES, **settings}
    return Trainer(
        model, optimizer, strategy, RunFolder(folder), learning_rate=lambda step: rate,
        batch_size=BATCH, forward=rematerialised(model) if remat else None, **settings,
    )  # fmt: skip


def train(trainer, updates=UPDATES):
    """The losses of a training."""
    trainer.run.path.mkdir(parents=True, exist_ok=True)
    trainer.train(batches, updates, checkpoint_every=10**6, progress=False)
    return [record["loss"] for record in trainer.run.read_metrics()]


def scale(trainer):
    return float(np.array(trainer.optimizer.dynamic_scale))


def vector(variables):
    return np.concatenate([np.array(v, dtype=np.float64).ravel() for v in variables])


@functools.cache
def five_updates(strategy="one_device", **settings):
    """Losses, and all trainable weights before and after, as vectors."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(folder, strategy=strategy, **settings)
        before = vector(trainer.model.trainable_variables)
        losses = train(trainer)
        return losses, before, vector(trainer.model.trainable_variables)


def difference(reference, other):
    """The largest difference of a weight, and all of them in proportion to what was learned."""
    (_, before, a), (_, same, b) = reference, other
    np.testing.assert_array_equal(before, same)
    return np.abs(a - b).max(), np.linalg.norm(a - b) / np.linalg.norm(a - before)


WAYS = [
    {"strategy": "mirrored"},
    {"microbatches": 4},
    {"strategy": "mirrored", "microbatches": 2},
]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_with_group_norm_the_batch_may_be_cut_in_any_way(way):
    largest, relative = difference(five_updates(), five_updates(**way))
    print(f"{way}: {largest:.1e} {relative:.1e}")
    assert largest < TOLERANCE
    assert relative < 1e-2
    losses, before, after = five_updates()
    np.testing.assert_allclose(five_updates(**way)[0], losses, rtol=1e-5)
    assert np.abs(after - before).max() > 50 * TOLERANCE  # there was something to compare


@pytest.mark.parametrize("way", WAYS[:2], ids=str)
def test_with_batch_norm_it_may_not(way):
    largest, relative = difference(five_updates(norm="bn"), five_updates(norm="bn", **way))
    print(f"bn {way}: {largest:.1e} {relative:.1e}")
    assert largest > 50 * TOLERANCE
    assert relative > 0.3


def test_statistics_over_replicas_make_batch_norm_agree_again():
    two = five_updates(norm="sync_bn", strategy="mirrored")
    largest, relative = difference(five_updates(norm="bn"), two)
    print(f"sync_bn: {largest:.1e} {relative:.1e}")
    assert largest < TOLERANCE
    assert relative < 1e-2


@pytest.mark.long
@pytest.mark.parametrize(
    ("norm", "same_as", "microbatches"), [("gn", "gn", 2), ("sync_bn", "bn", 1)]
)
def test_in_float64_nothing_is_left_of_the_difference_even_where_much_is_learned(
    norm, same_as, microbatches
):
    settings = {"dtype": "float64", "rate": 0.01}
    reference = five_updates(**settings, norm=same_as)
    other = five_updates(**settings, norm=norm, strategy="mirrored", microbatches=microbatches)
    largest, relative = difference(reference, other)
    print(f"float64 {norm}: {largest:.1e} {relative:.1e}")
    assert largest < 1e-9
    assert np.abs(reference[2] - reference[1]).max() > 1e-2


def test_steps_per_loop_do_not_change_the_weights():
    np.testing.assert_array_equal(five_updates()[2], five_updates(steps_per_loop=1)[2])


def test_rematerialisation_changes_no_loss_and_no_gradient():
    keras.utils.set_random_seed(0)
    model = ResNetV2(26, 0.5, CLASSES)
    head = model.get_layer("head.conv2d").kernel
    head.assign(0.05 * np.random.default_rng(0).normal(size=head.shape))
    images, labels = examples(BATCH)

    @tf.function
    def gradients(forward):
        with tf.GradientTape() as tape:
            logits = forward(tf.constant(images))
            loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(labels, logits))
        return loss, tape.gradient(loss, model.trainable_variables)

    loss, plain = gradients(lambda x: model(x, training=True))
    again, recomputed = gradients(rematerialised(model))
    plain, recomputed = vector(plain), vector(recomputed)
    print("remat", np.abs(plain - recomputed).max() / np.abs(plain).max())
    assert float(loss) == pytest.approx(float(again), rel=1e-6)
    assert np.abs(plain - recomputed).max() <= 1e-6 * np.abs(plain).max()


MEASURE = """
import json, sys
from bit_keras.backend import load_tensorflow
load_tensorflow()
import tensorflow as tf
from bit_keras import ResNetV2
from bit_keras.optimizers import SGD
from bit_keras.remat import rematerialised
from bit_keras.update import Update

def peak():
    status = open("/proc/self/status").read()  # getrusage would count what the parent had
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024

microbatches, remat = json.loads(sys.argv[1])
model = ResNetV2(50, 0.5, 3)  # deep, so that activations outweigh all else
optimizer = SGD(1e-3, momentum=0.9)
optimizer.build(model.trainable_variables)
forward = rematerialised(model) if remat else None
update = tf.function(Update(model, optimizer, 32, forward=forward, microbatches=microbatches))
before = peak()
for _ in range(2):
    update(tf.zeros([32, 192, 192, 3]), tf.one_hot([0, 1] * 16, 3))
print(peak() - before)
"""


@functools.cache
def megabytes(microbatches, remat):
    """Peak resident memory of an update of 32 images at 192 pixels, above the model itself."""
    command = [sys.executable, "-c", MEASURE, json.dumps([microbatches, remat])]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("microbatches", "remat"), [(1, True), (4, False)])
def test_less_memory_is_needed(microbatches, remat):
    plain, less = megabytes(1, False), megabytes(microbatches, remat)
    print(f"memory {microbatches=} {remat=}: {less:.0f} of {plain:.0f} MB, {less / plain:.2f}")
    assert less <= 0.7 * plain


@pytest.mark.long
@pytest.mark.parametrize("norm", ["gn", "bn"])
@pytest.mark.parametrize("standardized", [True, False])
def test_four_networks_learn_and_come_back_from_a_file(tmp_path, norm, standardized):
    trainer = make_trainer(tmp_path, norm=norm, standardized=standardized, rate=3e-3)
    losses = train(trainer, 25)
    print(norm, standardized, losses[0], losses[-1])
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    trainer.model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    images, _ = examples(4)
    np.testing.assert_array_equal(trainer.model(images), again(images))


def test_bfloat16_keeps_weights_in_float32_and_loses_little():
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(folder, dtype="mixed_bfloat16")
        assert (
            trainer.model.get_layer("block1.unit01.a.standardized_conv2d").compute_dtype
            == "bfloat16"
        )
        losses = train(trainer)
        assert {v.dtype for v in trainer.model.variables} == {"float32"}
    print("bfloat16", losses, five_updates()[0])
    np.testing.assert_allclose(losses, five_updates()[0], rtol=0.03)


@pytest.mark.parametrize(
    "strategy", ["one_device", pytest.param("mirrored", marks=pytest.mark.long)]
)
def test_an_update_that_overflows_float16_is_left_out_and_the_training_goes_on(tmp_path, strategy):
    # A scale whose products no float16 holds, whatever is left of it after a few halvings.
    trainer = make_trainer(
        tmp_path, strategy=strategy, dtype="mixed_float16", loss_scale=2.0**30, steps_per_loop=1
    )
    head = trainer.model.get_layer("head.conv2d").kernel  # zeros would stop the gradient
    head.assign(0.05 * np.random.default_rng(0).normal(size=head.shape))
    before = vector(trainer.model.trainable_variables)
    losses = train(trainer, 2)
    assert scale(trainer) == 2.0**28
    assert trainer.step == 2
    np.testing.assert_array_equal(vector(trainer.model.trainable_variables), before)
    losses = train(trainer, 30)
    print("float16 scale", scale(trainer), losses[0], losses[-1])
    assert np.isfinite(losses).all()
    assert scale(trainer) < 2.0**24
    assert np.abs(vector(trainer.model.trainable_variables) - before).max() > 1e-4


def test_weight_decay_is_the_textbooks_l2_on_kernels_only():
    """Against v ← m v − η (g + λ w), w ← w + v, written out."""
    draw = np.random.default_rng(0)
    kernel, bias = draw.normal(size=(4, 3)), draw.normal(size=3)
    variables = [keras.Variable(kernel, dtype="float64"), keras.Variable(bias, dtype="float64")]
    rate, momentum, decay = 0.1, 0.9, 0.01
    optimizer = SGD(rate, momentum=momentum, l2=decay)
    velocity = [np.zeros_like(kernel), np.zeros_like(bias)]
    for _ in range(4):
        gradients = [draw.normal(size=kernel.shape), draw.normal(size=bias.shape)]
        optimizer.apply(list(map(tf.constant, gradients)), variables)
        for i, (weight, decays) in enumerate(((kernel, decay), (bias, 0))):
            velocity[i] = momentum * velocity[i] - rate * (gradients[i] + decays * weight)
            weight += velocity[i]
    np.testing.assert_allclose(np.array(variables[0]), kernel, rtol=1e-6)
    np.testing.assert_allclose(np.array(variables[1]), bias, rtol=1e-6)


@pytest.mark.parametrize("remat", [False, True])
def test_frozen_kernels_stay_and_the_others_learn_in_micro_batches(remat):
    def after(microbatches):
        keras.utils.set_random_seed(0)
        model = ResNetV2(26, 0.5, CLASSES, "float64")
        frozen = model.get_layer("block1.unit01.b.standardized_conv2d")
        frozen.trainable = False
        before = np.array(frozen.kernel)
        head = model.get_layer("head.conv2d").kernel
        head.assign(0.05 * np.random.default_rng(0).normal(size=head.shape))
        optimizer = SGD(RATE)
        optimizer.build(model.trainable_variables)
        update = Update(
            model, optimizer, BATCH, microbatches=microbatches,
            forward=rematerialised(model) if remat else None,
        )  # fmt: skip
        images, labels = examples(BATCH)
        tf.function(update)(tf.constant(images, tf.float64), tf.constant(labels, tf.float64))
        np.testing.assert_array_equal(frozen.kernel, before)
        return vector([v.value for v in model.trainable_variables])

    whole, parts = after(1), after(2)
    np.testing.assert_allclose(whole, parts, atol=1e-10)
