import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from bit_keras import sources
from bit_keras.images import ImageError
from bit_keras.sources import few_shot_indices, load_source, stratified_split


def save_image(path, value=0, size=(6, 5)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


def make_folder(root, classes=("cat", "dog"), count=5, splits=("",)):
    for split in splits:
        for label, name in enumerate(classes):
            for i in range(count):
                save_image(root / split / name / f"{i}.png", 100 * label + i)
    return root


def read(dataset):
    return [{key: value.numpy() for key, value in example.items()} for example in dataset]


@pytest.mark.parametrize("spec", ["", "cifar10", "folder:", "s3:bucket", "embedded:nothing"])
def test_unknown_specs_list_what_is_accepted(spec):
    with pytest.raises(ValueError, match=r"Accepted") as caught:
        load_source(spec)
    assert repr(spec) in str(caught.value)


# folder:


def test_folder_splits_itself_when_it_has_no_split_folders(tmp_path):
    source = load_source(f"folder:{make_folder(tmp_path)}")
    assert source.class_names == ["cat", "dog"]
    assert source.num_classes == 2
    assert source.splits == {"train": 8, "test": 2}
    assert sorted(source.labels("test")) == [0, 1]
    values = {
        int(example["image"][0, 0, 0])
        for split in source.splits
        for example in read(source.examples(split))
    }
    assert values == {0, 1, 2, 3, 4, 100, 101, 102, 103, 104}


def test_folder_split_depends_on_names_and_seed_only(tmp_path):
    names = [f"{i}.png" for i in range(10)]
    for root, order in (("a", names), ("b", names[::-1])):
        for c in ("cat", "dog"):
            for i, name in enumerate(order):
                save_image(tmp_path / root / c / name, i)

    def test_files(root, seed):
        source = load_source(f"folder:{tmp_path / root}", seed=seed)
        return [source.example_name("test", i) for i in range(source.splits["test"])]

    assert test_files("a", 0) == test_files("b", 0)
    assert any(test_files("a", 0) != test_files("a", seed) for seed in (1, 2, 3))


def test_folder_uses_its_split_folders(tmp_path):
    make_folder(tmp_path, splits=("train", "validation"))
    source = load_source(f"folder:{tmp_path}")
    assert source.splits == {"train": 10, "val": 10}
    with pytest.raises(ValueError, match=r"'test'. It has: train, val"):
        source.labels("test")


def test_examples_come_in_the_order_of_the_indices(tmp_path):
    source = load_source(f"folder:{make_folder(tmp_path, splits=('train',))}")
    examples = read(source.examples("train", [7, 0, 7]))
    assert [e["index"] for e in examples] == [7, 0, 7]
    assert [e["label"] for e in examples] == [1, 0, 1]
    assert [e["image"][0, 0, 0] for e in examples] == [102, 0, 102]
    assert examples[0]["image"].shape == (5, 6, 3)
    assert source.examples("train").element_spec["image"] == tf.TensorSpec(
        (None, None, 3), tf.uint8
    )


@pytest.mark.parametrize("indices", [[], [10], [-1], [0.5], [[0]]])
def test_impossible_indices_are_refused(tmp_path, indices):
    source = load_source(f"folder:{make_folder(tmp_path, splits=('train',))}")
    with pytest.raises(ValueError, match="Received"):
        source.examples("train", indices)


def spoil(root):
    """Four unusable files, and clutter that nobody wants to hear of."""
    (root / "cat" / "zero.png").write_bytes(b"")
    (root / "cat" / "text.jpg").write_bytes(b"not an image")
    data = (root / "dog" / "0.png").read_bytes()
    (root / "dog" / "cut.png").write_bytes(data[:50])
    (root / "dog" / "movie.mp4").write_bytes(b"movie")
    (root / "README").write_text("clutter")
    (root / "dog" / ".DS_Store").write_text("clutter")
    (root / "dog" / "labels.csv").write_text("clutter")
    (root / "dog" / "Thumbs.db").write_text("clutter")


def test_unusable_files_are_skipped_and_named(tmp_path):
    spoil(make_folder(tmp_path / "train") and tmp_path / "train")
    source = load_source(f"folder:{tmp_path}")
    for _ in range(2):  # each name once
        assert len(read(source.examples("train"))) == 10
    assert source.skipped.reasons == {
        "train/cat/text.jpg": "not an image",
        "train/cat/zero.png": "empty file",
        "train/dog/cut.png": "truncated",
        "train/dog/movie.mp4": "not an image file",
    }


def test_strict_raises_and_names_the_file(tmp_path):
    make_folder(tmp_path, splits=("train",))
    (tmp_path / "train" / "cat" / "zero.png").write_bytes(b"")
    source = load_source(f"folder:{tmp_path}", strict=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"train/cat/zero.png .*: empty file"):
        read(source.examples("train"))
    (tmp_path / "train" / "dog" / "movie.mp4").write_bytes(b"movie")
    with pytest.raises(ImageError, match=r"movie.mp4"):
        load_source(f"folder:{tmp_path}", strict=True)


def test_an_endless_stream_of_nothing_is_an_error(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "0.png").write_bytes(b"")
    source = load_source(f"folder:{tmp_path}")
    with pytest.raises(tf.errors.InvalidArgumentError, match="None of the 2 examples"):
        next(iter(source.stream("train", seed=0)))


def test_folders_that_are_no_data_set_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        load_source(f"folder:{tmp_path / 'nowhere'}")
    with pytest.raises(ValueError, match="no images"):
        load_source(f"folder:{tmp_path}")
    make_folder(tmp_path / "one", classes=("cat",))
    with pytest.raises(ValueError, match="one class only"):
        load_source(f"folder:{tmp_path / 'one'}")
    (make_folder(tmp_path / "gap") / "bird").mkdir()
    with pytest.raises(ValueError, match="without images: bird"):
        load_source(f"folder:{tmp_path / 'gap'}")


def test_splits_with_other_classes_are_refused_with_the_difference(tmp_path):
    make_folder(tmp_path, classes=("cat", "dog"), splits=("train",))
    make_folder(tmp_path, classes=("cat", "fox"), splits=("test",))
    with pytest.raises(ValueError, match=r"'test' differ .*Missing: dog. Extra: fox"):
        load_source(f"folder:{tmp_path}")


def test_split_folders_beside_others_are_refused(tmp_path):
    make_folder(tmp_path, splits=("train", "annotations"))
    with pytest.raises(ValueError, match="Received: annotations, train"):
        load_source(f"folder:{tmp_path}")


def test_symlink_loops_do_not_hang_and_links_to_classes_work(tmp_path):
    make_folder(tmp_path / "elsewhere", classes=("fox",))
    root = make_folder(tmp_path / "root")
    (root / "fox").symlink_to(tmp_path / "elsewhere" / "fox")
    (root / "up").symlink_to(root)
    (root / "self").symlink_to(root / "self")
    (root / "cat" / "loop").symlink_to(root / "cat")
    (root / "cat" / "broken.png").symlink_to(tmp_path / "nowhere.png")
    source = load_source(f"folder:{root}")
    assert source.class_names == ["cat", "dog", "fox"]
    assert sum(source.splits.values()) == 15
    assert set(source.skipped.names) == {"up", "self", "cat/loop", "cat/broken.png"}


def test_embedded_reads_a_folder_of_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "ASSETS", tmp_path)
    make_folder(tmp_path / "mini", splits=("train", "test"))
    source = load_source("embedded:mini")
    assert source.name == "embedded:mini"
    assert source.splits == {"train": 10, "test": 10}
    with pytest.raises(ValueError, match="Accepted: embedded:mini"):
        load_source("embedded:maxi")


# stream


def test_every_epoch_of_a_stream_is_a_permutation(tmp_path):
    source = load_source(f"folder:{make_folder(tmp_path, splits=('train',))}")
    stream = read(source.stream("train", seed=3).take(30))
    assert [e["position"] for e in stream] == list(range(30))
    epochs = [[int(e["index"]) for e in stream[i : i + 10]] for i in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert [e["label"] for e in stream] == [source.labels("train")[e["index"]] for e in stream]


def test_a_stream_restricted_to_indices_uses_only_these(tmp_path):
    source = load_source(f"folder:{make_folder(tmp_path, splits=('train',))}")
    stream = read(source.stream("train", seed=0, indices=[8, 2, 5]).take(7))
    assert {int(e["index"]) for e in stream} == {2, 5, 8}
    with pytest.raises(ValueError, match="seed=-1"):
        source.stream("train", seed=-1)


def test_a_process_that_fails_with_a_live_iterator_ends(tmp_path):
    # The traceback keeps the iterator alive until Python has shut down.
    make_folder(tmp_path, count=40, splits=("train",))
    script = f"""
from bit_keras.data import train_batches
from bit_keras.sources import load_source
source = load_source("folder:{tmp_path}")
def run():
    batches = iter(train_batches(source, "train", batch_size=32, resize=300, crop=256,
                                 num_classes=2, seed=0))
    next(batches)
    raise RuntimeError("mine")
run()
"""
    ended = subprocess.run([sys.executable, "-c", script], timeout=120, capture_output=True)
    assert ended.returncode == 1
    assert ended.stderr.decode().strip().endswith("RuntimeError: mine")


# npz:


@pytest.mark.parametrize("shape", [(12, 5, 4), (12, 5, 4, 1), (12, 5, 4, 3)])
def test_npz_with_keras_names(tmp_path, shape):
    images = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    labels = np.arange(12)[:, None] % 3
    np.savez(
        tmp_path / "a.npz", x_train=images, y_train=labels, x_test=images[:4], y_test=labels[:4]
    )
    source = load_source(f"npz:{tmp_path / 'a.npz'}")
    assert source.splits == {"train": 12, "test": 4}
    assert source.class_names == ["0", "1", "2"]
    example = read(source.examples("train", [7]))[0]
    np.testing.assert_array_equal(
        example["image"], np.broadcast_to(images[7].reshape(5, 4, -1), (5, 4, 3))
    )
    assert example["label"] == 1
    assert source.labels("train").dtype == np.int64
    positions = [e["position"] for e in read(source.stream("train", seed=0, start=5).take(3))]
    assert positions == [5, 6, 7]


def test_npz_with_images_and_labels_is_split_and_unit_floats_are_scaled(tmp_path):
    images = np.linspace(0, 1, 20 * 4).reshape(20, 2, 2)
    names = np.array(["cat", "dog"])
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(20) % 2, class_names=names)
    source = load_source(f"npz:{tmp_path / 'a.npz'}")
    assert source.splits == {"train": 16, "test": 4}
    assert source.class_names == ["cat", "dog"]
    values = sorted(
        int(e["image"][0, 0, 0]) for split in source.splits for e in read(source.examples(split))
    )
    np.testing.assert_array_equal(values, np.rint(images[:, 0, 0] * 255))


IMAGES = np.zeros((4, 2, 2), np.uint8)
LABELS = np.arange(4) % 2


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": IMAGES}, "Received: pictures"),
        ({"images": IMAGES[0], "labels": LABELS}, r"shape \(2, 2\)"),
        ({"images": np.zeros((4, 2, 2, 5), np.uint8), "labels": LABELS}, r"\(4, 2, 2, 5\)"),
        ({"images": IMAGES.astype(float) + 255, "labels": LABELS}, "from 255.0 to 255.0"),
        ({"images": IMAGES.astype(float) * np.nan, "labels": LABELS}, "nan"),
        ({"images": IMAGES.astype(int), "labels": LABELS}, "Received: int64"),
        ({"images": IMAGES, "labels": LABELS[:3]}, r"4 images. Received: shape \(3,\)"),
        ({"images": IMAGES, "labels": LABELS - 1}, "smallest -1"),
        ({"images": IMAGES, "labels": LABELS.astype(float)}, "float64"),
        ({"images": IMAGES, "labels": LABELS * 0}, "at least two classes"),
        ({"images": IMAGES, "labels": LABELS, "class_names": np.array(["a"])}, r"\['a'\]"),
        ({"images": np.array([None, {}]), "labels": LABELS}, "not a readable npz"),
    ],
)
def test_unfit_npz_files_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_source(f"npz:{tmp_path / 'a.npz'}")


def test_missing_and_damaged_npz_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        load_source(f"npz:{tmp_path / 'a.npz'}")
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=LABELS)
    data = (tmp_path / "a.npz").read_bytes()
    for content in (b"", b"text", data[: len(data) // 2]):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(ValueError, match="not a readable npz"):
            load_source(f"npz:{tmp_path / 'a.npz'}")


# tfds:


class TinyShapes(tfds.core.GeneratorBasedBuilder):
    """Thirty grey images of 6 × 5, prepared on the spot."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = pathlib.Path(__file__).parent  # TFDS expects a builder to be in a package

    def _info(self):
        image = tfds.features.Image(shape=(6, 5, 1), encoding_format="png")
        label = tfds.features.ClassLabel(names=["square", "circle", "star"])
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({"image": image, "label": label})
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(30), "test": self._generate_examples(6)}

    def _generate_examples(self, count):
        for i in range(count):
            yield i, {"image": np.full((6, 5, 1), i, np.uint8), "label": i % 3}


@pytest.fixture(scope="module")
def tiny_shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(folder))
        yield load_source("tfds:tiny_shapes")


def test_tfds_by_name(tiny_shapes):
    assert tiny_shapes.splits == {"train": 30, "test": 6}
    assert tiny_shapes.class_names == ["square", "circle", "star"]
    examples = read(tiny_shapes.examples("train"))
    assert [e["index"] for e in examples] == list(range(30))
    assert sorted(e["image"][0, 0, 0] for e in examples) == list(range(30))
    assert all(e["image"].shape == (6, 5, 3) for e in examples)
    assert all(e["image"][0, 0, 0] % 3 == e["label"] for e in examples)
    np.testing.assert_array_equal(tiny_shapes.labels("train"), [e["label"] for e in examples])


def test_tfds_with_indices_keeps_the_order_of_the_files(tiny_shapes):
    examples = read(tiny_shapes.examples("train", [20, 3, 7]))
    assert [e["index"] for e in examples] == [3, 7, 20]
    assert [e["label"] for e in examples] == list(tiny_shapes.labels("train")[[3, 7, 20]])
    with pytest.raises(ValueError, match="must not repeat"):
        tiny_shapes.examples("train", [1, 1])


@pytest.mark.parametrize("indices", [None, list(range(0, 30, 2))])
@pytest.mark.parametrize("global_seeds", [(None, None), (0, 0), (0, 5)])
def test_tfds_streams_continue_where_they_stopped(tiny_shapes, indices, global_seeds):
    seeds = iter(global_seeds * 2)

    def stream(start, count):
        tf.random.set_seed(next(seeds))  # the program's own seed changes nothing
        dataset = tiny_shapes.stream("train", seed=1, start=start, indices=indices)
        return [(int(e["position"]), int(e["index"])) for e in read(dataset.take(count))]

    whole = stream(0, 70)
    n = 30 if indices is None else 15
    assert [position for position, _ in whole] == list(range(70))
    first, second = ([index for _, index in whole[i : i + n]] for i in (0, n))
    assert sorted(first) == sorted(second) == (indices or list(range(30)))
    assert first != second
    for start in (n, n + 7):
        assert stream(start, 70 - start) == whole[start:]


def test_tfds_few_shots_read_the_files_once(tiny_shapes, monkeypatch):
    reads = []
    encoded = tiny_shapes._encoded

    def counted(split, chosen):
        def note(example):
            tf.py_function(reads.append, [0], [])
            return example

        return encoded(split, chosen).map(note)

    monkeypatch.setattr(tiny_shapes, "_encoded", counted)
    stream = tiny_shapes.stream("train", seed=0, indices=[3, 7, 20])
    assert [int(e["index"]) % 17 for e in read(stream.take(9))].count(3) == 6  # 3 and 20
    assert len(reads) == 3


def test_tfds_unknown_names_and_unfit_features_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(ValueError, match="Close to it: cifar10"):
        load_source("tfds:cifar_10")
    with pytest.raises(ValueError, match="must have the features image"):
        load_source("tfds:coco")


def test_tfds_without_network_says_at_once_how_to_prepare(tmp_path, monkeypatch):
    import requests

    def refuse(*args, **options):
        raise requests.ConnectionError

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(requests, "head", refuse)
    with pytest.raises(ConnectionError, match="TFDS_DATA_DIR") as caught:
        load_source("tfds:cifar10")
    assert "www.cs.toronto.edu cannot be reached" in str(caught.value)


# splits


def test_few_shot_is_balanced_seeded_and_without_replacement():
    labels = np.random.default_rng(0).integers(0, 4, 200)
    chosen = few_shot_indices(labels, 10, seed=1)
    assert chosen.dtype == np.int64
    assert len(set(chosen)) == 40
    np.testing.assert_array_equal(np.bincount(labels[chosen]), [10] * 4)
    np.testing.assert_array_equal(chosen, few_shot_indices(labels, 10, seed=1))
    assert (chosen != few_shot_indices(labels, 10, seed=2)).any()


def test_few_shot_names_the_classes_that_are_too_small():
    with pytest.raises(ValueError, match=r"2 examples: dog \(1\), fox \(0\)"):
        few_shot_indices([0, 0, 1], 2, seed=0, class_names=["cat", "dog", "fox"])
    with pytest.raises(ValueError, match="at least 1"):
        few_shot_indices([0, 1], 0, seed=0)


def test_stratified_split_holds_out_every_class_that_can_spare_one():
    labels = np.repeat([0, 1, 2, 3], [1, 2, 10, 100])
    kept, held_out = stratified_split(labels, 0.2, seed=0)
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, held_out])), np.arange(113))
    np.testing.assert_array_equal(np.bincount(labels[held_out], minlength=4), [0, 1, 2, 20])
    assert kept.dtype == held_out.dtype == np.int64
    again = stratified_split(labels, 0.2, seed=0)[1]
    np.testing.assert_array_equal(held_out, again)
    with pytest.raises(ValueError, match="between 0 and 1"):
        stratified_split(labels, 1.0, seed=0)


def test_labels_of_a_folder_open_no_file(tmp_path):
    make_folder(tmp_path, splits=("train",))
    source = load_source(f"folder:{tmp_path}")
    for file in tmp_path.rglob("*.png"):
        os.remove(file)
    np.testing.assert_array_equal(source.labels("train"), [0] * 5 + [1] * 5)
