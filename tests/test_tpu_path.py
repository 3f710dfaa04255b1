"""The path to a TPU as far as it goes without one: resolver, static shapes, XLA, no host in a step.

docs/scaling.md says what was never run on the real thing.
"""

import functools
import re
import socket
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from toy import MODEL, write_npz

from bit_keras import ResNetV2, cli
from bit_keras.data import pretrain_batches
from bit_keras.distribute import Part, distributed, make_strategy
from bit_keras.layers import kernels
from bit_keras.losses import sigmoid_loss
from bit_keras.optimizers import SGD
from bit_keras.remat import rematerialised
from bit_keras.runs import RunFolder
from bit_keras.sources import load_source
from bit_keras.trainer import Trainer
from bit_keras.update import Update

CLASSES, SIDE, BATCH = 3, 32, 8
POLICIES = ["float32", "mixed_bfloat16"]
# Operations that leave the device for Python or for the host's console.
HOST = re.compile(r"PyFunc|HostCompute|XlaHost|Print|Outfeed|Infeed|Send$|Recv$|_Xla(Send|Recv)")


def closed_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


@pytest.mark.parametrize("tpu", ["no-such-tpu", "local", "grpc://127.0.0.1:{port}"])
def test_a_tpu_that_does_not_answer_is_told_at_once(tmp_path, capsys, tpu):
    tpu = tpu.format(port=closed_port())
    started = time.monotonic()
    flags = [f"--data={write_npz(tmp_path / 'toy.npz')}", f"--output={tmp_path / 'run'}"]
    status = cli.run(["pretrain", *flags, f"--model={MODEL}", "--strategy=tpu", f"--tpu={tpu}"])
    told = capsys.readouterr().err
    assert status == cli.FAILED
    assert f"No TPU '{tpu}' answers" in told
    assert "--tpu=local" in told
    assert len(told.splitlines()) == 1
    assert time.monotonic() - started < 20
    assert not (tmp_path / "run").exists()


def test_naming_a_tpu_is_enough_to_ask_for_it():
    with pytest.raises(OSError, match="No TPU"):
        make_strategy("auto", f"grpc://127.0.0.1:{closed_port()}")


def make_update(dtype, **settings):
    """An update of a small network with everything on, its model, and a batch for it."""
    keras.utils.set_random_seed(0)
    model = ResNetV2(26, 0.5, CLASSES, dtype)
    head = model.get_layer("head.conv2d").kernel
    head.assign(0.05 * np.random.default_rng(0).normal(size=head.shape))
    optimizer = SGD(1e-5, momentum=0.9, l2=1e-4)
    optimizer.build(model.trainable_variables)
    update = Update(
        model, optimizer, BATCH, loss=sigmoid_loss, watched=kernels(model),
        forward=rematerialised(model) if settings.pop("remat", False) else None, **settings,
    )  # fmt: skip
    draw = np.random.default_rng(1)
    images = draw.uniform(-1, 1, (BATCH, SIDE, SIDE, 3)).astype(np.float32)
    labels = np.eye(CLASSES, dtype=np.float32)[np.arange(BATCH) % CLASSES]
    return update, (tf.constant(images), tf.constant(labels))


@functools.cache
def three_updates(dtype, compiled):
    """Loss, gradient norm and weight norm of three updates [3, 3], and how far weights moved."""
    update, batch = make_update(dtype)
    before = [np.array(v) for v in update.model.trainable_variables]
    step = tf.function(update, jit_compile=compiled)
    numbers = np.stack([step(*batch).numpy() for _ in range(3)])
    moved = [np.array(v) - b for v, b in zip(update.model.trainable_variables, before, strict=True)]
    return numbers, np.concatenate([m.ravel() for m in moved])


# A ReLU whose input is all but zero falls either way, with a whole gradient behind it.
# In bfloat16 XLA keeps float32 between operations where plain kernels round, so that gradients of
# a network this deep have little more than their size in common.
@pytest.mark.parametrize(
    ("dtype", "first", "loss", "gradient", "weights"),
    [("float32", 1e-5, 5e-4, 1e-2, 0.1), ("mixed_bfloat16", 0.02, 0.15, 0.25, 1.2)],
)
def test_xla_compiles_an_update_and_computes_the_same(dtype, first, loss, gradient, weights):
    plain, moved = three_updates(dtype, False)
    compiled, moved_compiled = three_updates(dtype, True)
    apart = np.linalg.norm(moved - moved_compiled) / np.linalg.norm(moved)
    print(dtype, np.abs(plain / compiled - 1).max(0), apart)
    np.testing.assert_allclose(plain[0, 0], compiled[0, 0], rtol=first)  # the same weights
    np.testing.assert_allclose(plain[:, 0], compiled[:, 0], rtol=loss)
    np.testing.assert_allclose(plain[:, 1], compiled[:, 1], rtol=gradient)
    np.testing.assert_allclose(plain[:, 2], compiled[:, 2], rtol=1e-4)
    assert apart < weights
    assert np.abs(moved).max() > 1e-5


@pytest.mark.long
@pytest.mark.parametrize("settings", [{"microbatches": 2}, {"remat": True}], ids=str)
def test_xla_compiles_what_saves_memory_too(settings):
    update, batch = make_update("mixed_bfloat16", **settings)
    numbers = tf.function(update, jit_compile=True)(*batch).numpy()
    print(settings, numbers, three_updates("mixed_bfloat16", False)[0][0])
    np.testing.assert_allclose(
        numbers[0], three_updates("mixed_bfloat16", False)[0][0, 0], rtol=0.03
    )


def operations(function):
    """All operations of a concrete function, those of the functions that it calls included."""
    definition = function.graph.as_graph_def()
    nodes = [*definition.node, *(n for f in definition.library.function for n in f.node_def)]
    return [node.op for node in nodes]


def toy_batches(source, part, start=0):
    return pretrain_batches(
        source, "train", part, size=SIDE, num_classes=CLASSES, seed=0, start=start
    )


@pytest.mark.parametrize("dtype", POLICIES)
def test_a_loop_of_steps_asks_nothing_of_the_host(tmp_path, dtype):
    """The very graph that the trainer runs, with its iterator as the only source of data."""
    source = load_source(write_npz(tmp_path / "toy.npz"))
    strategy = make_strategy("mirrored")
    with strategy.scope():
        model = ResNetV2(26, 0.5, CLASSES, dtype)
        optimizer = SGD(1e-3, momentum=0.9, l2=1e-4)
    trainer = Trainer(
        model, optimizer, strategy, RunFolder(tmp_path / "run"), learning_rate=lambda step: 1e-3,
        batch_size=BATCH, loss=sigmoid_loss, watched=kernels(model), microbatches=2,
    )  # fmt: skip
    iterator = iter(distributed(strategy, BATCH, lambda part: toy_batches(source, part)))
    found = operations(trainer._run_loop.get_concrete_function(iterator, tf.constant(2)))
    assert "IteratorGetNext" in found or "MultiDeviceIteratorGetNextFromShard" in found
    assert any("Conv2DBackprop" in op for op in found)  # functions were looked into
    assert not [op for op in found if HOST.search(op)]


def test_the_search_for_host_operations_finds_them():
    @tf.function
    def told(x):
        for _ in tf.range(2):
            tf.print(x)
            tf.numpy_function(np.abs, [x], tf.float32)
        return x

    found = operations(told.get_concrete_function(tf.constant(1.0)))
    assert {op for op in found if HOST.search(op)} >= {"PrintV2", "PyFunc"}


@pytest.mark.parametrize("name", ["one_device", "mirrored"])
def test_every_replica_gets_batches_of_one_static_shape(tmp_path, name):
    source = load_source(write_npz(tmp_path / "toy.npz", train=BATCH + 3))  # no whole batches
    strategy = make_strategy(name)
    replicas = strategy.num_replicas_in_sync
    feed = distributed(strategy, BATCH, lambda part: toy_batches(source, part))
    share = BATCH // replicas
    seen = []

    @tf.function
    def shapes(batch):
        strategy.run(lambda image, label: seen.append((image.shape, label.shape)),
                     args=(batch["image"], batch["label"]))  # fmt: skip

    for _, batch in zip(range(3), feed, strict=False):
        shapes(batch)
    expected = (tf.TensorShape([share, SIDE, SIDE, 3]), tf.TensorShape([share, CLASSES]))
    assert set(map(repr, seen)) == {repr(expected)}
    assert len(seen) == replicas  # traced once, not again for another shape


def test_a_worker_of_several_gets_static_shapes_too(tmp_path):
    source = load_source(write_npz(tmp_path / "toy.npz"))
    spec = toy_batches(source, Part(1, 4, 2)).element_spec
    assert spec["image"].shape.is_fully_defined()
    assert spec["image"].shape == (2, SIDE, SIDE, 3)
    assert spec["label"].shape == (2, CLASSES)
    assert spec["position"].shape == (2,)
