import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from bit_keras.data import eval_batches, pretrain_batches, train_batches
from bit_keras.distribute import Part
from bit_keras.preprocess import eval_view
from bit_keras.sources import load_source

TRAIN = {"batch_size": 4, "resize": 10, "crop": 8, "num_classes": 3, "seed": 0}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Three classes of seven random images, one of which is broken."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name in "abc":
        folder = root / "train" / name
        folder.mkdir(parents=True)
        for i in range(7):
            pixels = rng.integers(0, 256, (12 + i, 15, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    (root / "train" / "b" / "3.png").write_bytes(b"broken")
    return load_source(f"folder:{root}")


def read(batches, count):
    return [{k: v.numpy() for k, v in batch.items()} for batch in batches.take(count)]


def assert_equal(batches, expected):
    assert len(batches) == len(expected)
    for batch, other in zip(batches, expected, strict=True):
        for key in other:
            np.testing.assert_array_equal(batch[key], other[key])


def test_train_batches_have_static_shapes_and_ranges(source):
    batches = train_batches(source, "train", **TRAIN)
    spec = {key: (tuple(s.shape), s.dtype.name) for key, s in batches.element_spec.items()}
    assert spec == {
        "image": ((4, 8, 8, 3), "float32"),
        "label": ((4, 3), "float32"),
        "position": ((4,), "int64"),
    }
    for batch in read(batches, 6):
        assert -1 <= batch["image"].min() < -0.5
        assert 0.5 < batch["image"].max() <= 1
        np.testing.assert_array_equal(batch["label"].sum(1), 1)


@pytest.mark.parametrize("mixup_alpha", [None, 0.4])
@pytest.mark.parametrize("indices", [None, [2, 10, 5]])
def test_resumed_batches_are_bit_identical(source, mixup_alpha, indices):
    settings = {**TRAIN, "mixup_alpha": mixup_alpha, "indices": indices}
    whole = read(train_batches(source, "train", **settings), 20)
    for done in (1, 4, 5, 6, 13):
        start = int(whole[done - 1]["position"][-1]) + 1
        resumed = train_batches(source, "train", **settings, start=start)
        assert_equal(read(resumed, 20 - done), whole[done:])


def test_positions_count_broken_files_but_do_not_deliver_them(source):
    positions = np.concatenate(
        [b["position"] for b in read(train_batches(source, "train", **TRAIN), 15)]
    )
    epoch = positions[positions < 21]
    assert len(epoch) == 20
    assert (np.diff(positions) >= 1).all()
    assert source.skipped.names == ["train/b/3.png"]


def test_seeds_give_other_batches_and_the_same_seed_the_same(source):
    first, again = (read(train_batches(source, "train", **TRAIN), 3) for _ in range(2))
    assert_equal(first, again)
    other = read(train_batches(source, "train", **{**TRAIN, "seed": 1}), 3)
    assert (first[0]["image"] != other[0]["image"]).any()


def test_a_batch_may_be_larger_than_the_data(source):
    batches = read(
        train_batches(source, "train", **{**TRAIN, "batch_size": 50}, indices=[0, 20]), 2
    )
    for batch in batches:
        np.testing.assert_array_equal(batch["label"].sum(0), [25, 0, 25])
    flat = batches[0]["image"].reshape(50, -1)
    assert len(np.unique(flat, axis=0)) > 10  # each time another view


def test_mixup_acts_on_the_whole_batch_with_one_weight(source):
    plain = read(train_batches(source, "train", **TRAIN), 5)
    mixed = read(train_batches(source, "train", **TRAIN, mixup_alpha=1.0), 5)
    weights = []
    for before, after in zip(plain, mixed, strict=True):
        x, rolled = before["image"], np.roll(before["image"], 1, axis=0)
        weight = ((after["image"] - rolled) * (x - rolled)).sum() / ((x - rolled) ** 2).sum()
        np.testing.assert_allclose(after["image"], weight * x + (1 - weight) * rolled, atol=1e-5)
        expected = weight * before["label"] + (1 - weight) * np.roll(before["label"], 1, axis=0)
        np.testing.assert_allclose(after["label"], expected, atol=1e-5)
        weights.append(weight)
    assert np.std(weights) > 0.01


def test_without_flip_no_image_is_mirrored(tmp_path):
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, :4] = 255
    np.savez(tmp_path / "a.npz", x_train=pixels[None].repeat(2, 0), y_train=[0, 1])
    source = load_source(f"npz:{tmp_path / 'a.npz'}")
    settings = {**TRAIN, "batch_size": 64, "resize": 8}
    fixed = read(train_batches(source, "train", **settings, flip=False), 1)[0]["image"]
    assert (fixed[:, 0, 0, 0] == 1).all()
    mirrored = read(train_batches(source, "train", **settings), 1)[0]["image"]
    assert 10 < (mirrored[:, 0, 0, 0] == -1).sum() < 54


@pytest.mark.parametrize("batch_size", [1, 4, 20, 64])
def test_evaluation_counts_every_decodable_example_once(source, batch_size):
    batches = read(eval_batches(source, "train", batch_size=batch_size, size=8), -1)
    assert all(b["image"].shape == (batch_size, 8, 8, 3) for b in batches)
    weight = np.concatenate([b["weight"] for b in batches])
    index = np.concatenate([b["index"] for b in batches])[weight == 1]
    label = np.concatenate([b["label"] for b in batches])[weight == 1]
    assert list(index) == [i for i in range(21) if i != 10]
    np.testing.assert_array_equal(label, source.labels("train")[index])
    assert set(weight) <= {0, 1}
    assert weight.sum() == 20


def test_evaluation_sees_the_whole_image_resized(source):
    batch = read(eval_batches(source, "train", batch_size=3, size=8, indices=[5, 1]), 1)[0]
    np.testing.assert_array_equal(batch["index"], [5, 1, 0])
    np.testing.assert_array_equal(batch["weight"], [1, 1, 0])
    assert (batch["image"][2] == 0).all()
    for row, example in enumerate(source.examples("train", [5, 1])):
        np.testing.assert_allclose(batch["image"][row], eval_view(example["image"], 8), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"crop": 11}, "crop=11, resize=10"),
        ({"num_classes": 2}, "at least the 3"),
        ({"mixup_alpha": -0.1}, "mixup_alpha"),
        ({"seed": -1}, "seed=-1"),
        ({"start": -1}, "start=-1"),
    ],
)
def test_impossible_settings_are_refused(source, change, message):
    with pytest.raises(ValueError, match=message):
        train_batches(source, "train", **{**TRAIN, **change})


def test_impossible_evaluation_settings_are_refused(source):
    for change in ({"batch_size": 0}, {"size": 0}, {"num_classes": 2}):
        with pytest.raises(ValueError, match="Received"):
            eval_batches(source, "train", **{"batch_size": 4, "size": 8, **change})
    with pytest.raises(ValueError, match="'test'"):
        eval_batches(source, "test", batch_size=4, size=8)


def positions_and_labels(batches, count):
    rows = []
    for batch in batches.take(count):
        rows += zip(batch["position"].numpy(), batch["label"].numpy().argmax(1), strict=True)
    return sorted((int(p), int(label)) for p, label in rows)


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_together_read_the_stream_of_one(source, workers):
    readable = [i for i in range(21) if i != 10]
    settings = {"size": 24, "num_classes": 3, "seed": 3, "indices": readable}
    whole = pretrain_batches(source, "train", Part(0, 1, 6), **settings)
    parts = [
        pretrain_batches(source, "train", Part(w, workers, 6 // workers), **settings)
        for w in range(workers)
    ]
    together = sorted(row for part in parts for row in positions_and_labels(part, 4))
    assert together == positions_and_labels(whole, 4)


def test_pretraining_batches_have_static_shapes_and_ranges(source):
    batches = pretrain_batches(
        source, "train", Part(0, 1, 4), size=24, num_classes=source.num_classes, seed=0
    )
    assert batches.element_spec["image"].shape == (4, 24, 24, 3)
    assert batches.element_spec["label"].shape == (4, source.num_classes)
    batch = next(iter(batches))
    assert float(tf.reduce_min(batch["image"])) >= -1
    assert float(tf.reduce_max(batch["image"])) <= 1
    assert batch["label"].numpy().sum(1).tolist() == [1, 1, 1, 1]
