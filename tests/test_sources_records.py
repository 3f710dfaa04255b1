import io
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from bit_keras.data import eval_batches, train_batches
from bit_keras.records import write_records
from bit_keras.sources import load_source, shuffle

COUNT = 46


def png(value, size=(6, 5)):
    file = io.BytesIO()
    Image.new("RGB", size, (value, value, value)).save(file, "PNG")
    return file.getvalue()


def record(encoded, labels):
    features = {
        "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded])),
        "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=labels)),
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString()


def write_shard(path, records):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for r in records:
            writer.write(r)


def foreign(folder, labels, shards=3):
    """Shards without a manifest; image i is grey i."""
    folder.mkdir(exist_ok=True)
    for k in range(shards):
        chosen = range(k, len(labels), shards)
        records = [record(png(i), np.atleast_1d(labels[i]).tolist()) for i in chosen]
        write_shard(folder / f"part-{k}.tfrecord", records)
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Five shards of COUNT training images, the value of each telling its label."""
    folder = tmp_path_factory.mktemp("written")
    images = np.repeat(np.arange(COUNT, dtype=np.uint8), 30).reshape(COUNT, 6, 5)
    np.savez(
        folder / "a.npz",
        x_train=images,
        y_train=np.arange(COUNT) % 3,
        x_test=images[:7],
        y_test=np.arange(7) % 3,
        class_names=np.array(["cat", "dog", "fox"]),
    )
    write_records(load_source(f"npz:{folder / 'a.npz'}"), folder / "records", shards=5)
    return folder / "records"


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    """Two shards at a time and a buffer of three, so that a few images exercise all of it."""
    monkeypatch.setattr(shuffle, "GROUP", 2)
    monkeypatch.setattr(shuffle, "SHUFFLE_MIN", 3)
    monkeypatch.setattr(shuffle, "SHUFFLE_BYTES", 0)


def read(dataset):
    return [{key: value.numpy() for key, value in example.items()} for example in dataset]


def order(dataset, count):
    return [(int(e["position"]), int(e["index"])) for e in dataset.take(count)]


def test_a_manifest_gives_splits_and_classes(written):
    source = load_source(f"tfrecord:{written}")
    assert source.name == f"tfrecord:{written}"
    assert source.splits == {"train": COUNT, "test": 7}
    assert source.class_names == ["cat", "dog", "fox"]
    assert not source.multi_label
    np.testing.assert_array_equal(source.class_counts("test"), [3, 2, 2])
    np.testing.assert_array_equal(np.bincount(source.labels("train")), source.class_counts("train"))
    only = load_source(f"tfrecord:{written}/test-*")
    assert only.splits == {"test": 7}


def test_part_of_a_split_is_counted_for_itself(written):
    source = load_source(f"tfrecord:{written}/train-0000[01]-*.tfrecord")
    assert source.splits == {"train": 19}
    np.testing.assert_array_equal(
        source.class_counts("train"), np.bincount(source.labels("train"), minlength=3)
    )


def test_examples_come_once_in_the_order_of_the_files(written):
    source = load_source(f"tfrecord:{written}")
    examples = read(source.examples("train"))
    assert [e["index"] for e in examples] == list(range(COUNT))
    assert sorted(e["image"][0, 0, 0] for e in examples) == list(range(COUNT))
    assert all(e["image"].shape == (6, 5, 3) for e in examples)
    assert all(e["image"][0, 0, 0] % 3 == e["label"] for e in examples)
    np.testing.assert_array_equal(source.labels("train"), [e["label"] for e in examples])
    chosen = read(source.examples("train", [40, 3, 12]))
    assert [e["index"] for e in chosen] == [3, 12, 40]
    assert source.examples("train").element_spec["image"].shape.as_list() == [None, None, 3]
    with pytest.raises(ValueError, match="must not repeat"):
        source.examples("train", [1, 1])
    with pytest.raises(ValueError, match="It has: train, test"):
        source.examples("val")


@pytest.mark.parametrize("indices", [None, list(range(0, COUNT, 2)), [4, 5]])
def test_streams_are_permutations_and_continue_where_they_stopped(written, indices):
    source = load_source(f"tfrecord:{written}")
    n = COUNT if indices is None else len(indices)

    def stream(start, count):
        tf.random.set_seed(start)  # the program's own seed changes nothing
        return order(source.stream("train", seed=1, start=start, indices=indices), count)

    whole = stream(0, 3 * n)
    assert [position for position, _ in whole] == list(range(3 * n))
    epochs = [[index for _, index in whole[i * n : (i + 1) * n]] for i in range(3)]
    assert all(sorted(epoch) == (indices or list(range(COUNT))) for epoch in epochs)
    if n > 2:
        assert epochs[0] != epochs[1] != epochs[2]
    for start in {1, n - 1, n, n + n // 3}:
        assert stream(start, 3 * n - start) == whole[start:]


def test_another_seed_gives_another_order(written):
    source = load_source(f"tfrecord:{written}")
    first, again, other = (order(source.stream("train", seed=s), COUNT) for s in (1, 1, 2))
    assert first == again
    assert first != other
    with pytest.raises(ValueError, match="seed=-1"):
        source.stream("train", seed=-1)


def test_workers_read_files_of_their_own(written):
    source = load_source(f"tfrecord:{written}")
    streams = [order(source.stream("train", seed=0, shard=(w, 2)), 60) for w in (0, 1)]
    positions = [p for stream in streams for p, _ in stream]
    assert sorted(positions) == list(range(120))
    seen = [{index for _, index in stream} for stream in streams]
    assert seen[0] | seen[1] == set(range(COUNT))
    assert not seen[0] & seen[1]
    for worker in (0, 1):  # the same `start` for both
        dataset = source.stream("train", seed=0, start=34, shard=(worker, 2))
        assert order(dataset, 43) == streams[worker][17:]
    for shard in ((0, 6), (2, 2), (-1, 2)):
        with pytest.raises(ValueError, match="at most the 5 files"):
            source.stream("train", seed=0, shard=shard)


def test_whole_groups_are_skipped_unread(written, tmp_path):
    folder = tmp_path / "records"
    shutil.copytree(written, folder)
    source = load_source(f"tfrecord:{folder}")
    expected = order(source.stream("train", seed=5, start=COUNT - 8), 8)
    last = {source.example_name("train", index).split(":")[0] for _, index in expected}
    for file in folder.glob("train-*"):
        if file.name not in last:
            file.unlink()
    # Five files in groups of two leave one for the last group.
    assert len(last) == 1
    assert order(source.stream("train", seed=5, start=COUNT - 8), 8) == expected


def test_the_encoded_stream_is_the_stream_without_python_functions(written):
    source = load_source(f"tfrecord:{written}")
    decoded = read(source.stream("train", seed=3, start=4).take(20))
    dataset = source.encoded_stream("train", seed=3, start=4)
    for plain, example in zip(decoded, read(dataset.take(20)), strict=True):
        assert (plain["position"], plain["index"]) == (example["position"], example["index"])
        assert plain["label"] == example["label"]
        np.testing.assert_array_equal(plain["image"], tf.io.decode_png(example["encoded"], 3))
    graph = tf.raw_ops.DatasetToGraphV2(input_dataset=dataset._variant_tensor).numpy()
    assert b"TFRecordDataset" in graph
    assert b"PyFunc" not in graph


def test_batches_for_training_and_evaluation(written):
    source = load_source(f"tfrecord:{written}")
    batches = train_batches(
        source, "train", batch_size=8, resize=8, crop=6, num_classes=3, seed=0, mixup_alpha=0.1
    )
    batch = next(iter(batches))
    assert batch["image"].shape == (8, 6, 6, 3)
    total = sum(
        float(tf.reduce_sum(b["weight"]))
        for b in eval_batches(source, "train", batch_size=8, size=6)
    )
    assert total == COUNT


def test_without_a_manifest_the_records_are_counted(tmp_path, capsys):
    folder = foreign(tmp_path, np.arange(10) % 4)
    source = load_source(f"tfrecord:{folder}/part-*")
    assert "no manifest.json: reading 3 files" in capsys.readouterr().err
    assert source.splits == {"train": 10}
    assert source.class_names == ["0", "1", "2", "3"]
    examples = read(source.examples("train"))
    assert [int(e["image"][0, 0, 0]) for e in examples] == [0, 3, 6, 9, 1, 4, 7, 2, 5, 8]
    np.testing.assert_array_equal(source.labels("train"), [e["label"] for e in examples])
    np.testing.assert_array_equal(source.class_counts("train"), [3, 3, 2, 2])


def test_several_labels_become_one_multi_hot_vector(tmp_path):
    folder = foreign(tmp_path, [[0], [2, 3], [], [1, 0, 3]], shards=1)
    source = load_source(f"tfrecord:{folder}")
    assert source.multi_label
    np.testing.assert_array_equal(
        source.labels("train"), [[0, -1, -1], [2, 3, -1], [-1, -1, -1], [1, 0, 3]]
    )
    np.testing.assert_array_equal(source.class_counts("train"), [2, 1, 1, 2])
    expected = [[1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0], [1, 1, 0, 1]]
    examples = read(source.examples("train"))
    assert examples[0]["label"].dtype == np.float32
    np.testing.assert_array_equal([e["label"] for e in examples], expected)
    for example in source.stream("train", seed=0).take(4):
        np.testing.assert_array_equal(example["label"], expected[int(example["index"])])


def broken(folder):
    good, cut = png(7), png(8)[:50]
    write_shard(folder / "a.tfrecord", [record(good, [0]), record(b"", [1])])
    write_shard(folder / "b.tfrecord", [record(cut, [1]), record(good, [0]), record(good, [1])])
    return f"tfrecord:{folder}"


def test_broken_images_are_named_by_shard_and_record(tmp_path):
    source = load_source(broken(tmp_path))
    for _ in range(2):
        assert [e["index"] for e in read(source.examples("train"))] == [0, 3, 4]
    assert source.skipped.reasons == {"a.tfrecord:1": "empty file", "b.tfrecord:0": "truncated"}
    stream = order(source.stream("train", seed=0), 9)
    assert {position for position, _ in stream} < set(range(15))
    assert order(source.stream("train", seed=0, start=stream[4][0] + 1), 4) == stream[5:]


def test_strict_raises_and_names_the_record(tmp_path):
    source = load_source(broken(tmp_path), strict=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"a.tfrecord:1 of .*: empty file"):
        read(source.examples("train"))


def test_an_endless_stream_of_nothing_is_an_error(tmp_path):
    write_shard(tmp_path / "a.tfrecord", [record(b"", [0]), record(b"", [1])])
    source = load_source(f"tfrecord:{tmp_path}")
    with pytest.raises(tf.errors.InvalidArgumentError, match="None of the 2 examples"):
        next(iter(source.stream("train", seed=0)))
    write_shard(tmp_path / "b.tfrecord", [record(png(1), [0])])
    source = load_source(f"tfrecord:{tmp_path}")
    with pytest.raises(tf.errors.InvalidArgumentError, match="None of the 2 examples"):
        next(iter(source.stream("train", seed=0, shard=(0, 2))))


def test_a_glob_that_matches_nothing_says_what_to_type(tmp_path):
    for pattern in (f"{tmp_path}/*.tfrecord", f"{tmp_path}", f"{tmp_path}/none/x-*"):
        with pytest.raises(FileNotFoundError, match="No file matches .* Name shards such as"):
            load_source(f"tfrecord:{pattern}")


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([b"no example"], "a.tfrecord is damaged, or its records are no tf.train.Example"),
        ([], "0 records, labels: none"),
        ([record(png(1), [0])], "labels: 0 to 0"),
        ([record(png(1), [-1, 3])], "labels: -1 to 3"),
    ],
)
def test_unfit_records_are_refused(tmp_path, records, message):
    write_shard(tmp_path / "a.tfrecord", records)
    with pytest.raises(ValueError, match=message):
        load_source(f"tfrecord:{tmp_path}")


def test_a_damaged_shard_without_manifest_is_named(tmp_path):
    foreign(tmp_path, np.arange(10) % 4)
    data = bytearray((tmp_path / "part-1.tfrecord").read_bytes())
    data[40] ^= 255
    (tmp_path / "part-1.tfrecord").write_bytes(data)
    with pytest.raises(ValueError, match=r"part-1.tfrecord is damaged"):
        load_source(f"tfrecord:{tmp_path}")


def test_shards_that_do_not_fit_the_manifest_are_refused(written, tmp_path):
    folder = tmp_path / "records"
    shutil.copytree(written, folder)
    shards = sorted(folder.glob("train-*"))
    shutil.copy(shards[0], folder / "stray.tfrecord")
    shards[1].unlink()
    shards[2].write_bytes(shards[2].read_bytes()[:-5])
    with pytest.raises(ValueError, match="does not fit its manifest.json") as caught:
        load_source(f"tfrecord:{folder}")
    told = str(caught.value)
    assert f"Missing: {shards[1].name}" in told
    assert "Not listed: stray.tfrecord" in told
    assert f"Of another size: {shards[2].name}" in told


def test_lost_records_are_an_error_even_where_sizes_are_not_asked_for(written, tmp_path):
    folder = tmp_path / "records"
    shutil.copytree(written, folder)
    source = load_source(f"tfrecord:{folder}")
    shard = sorted(folder.glob("train-*"))[0]
    first = next(iter(tf.data.TFRecordDataset(str(shard)))).numpy()
    write_shard(shard, [first])
    with pytest.raises(tf.errors.FailedPreconditionError, match="cardinality|expected to contain"):
        read(source.examples("train"))


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format": "bit_keras records 1"}'])
def test_a_file_that_is_no_manifest_is_refused(tmp_path, text):
    foreign(tmp_path, np.arange(4) % 2)
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match="is not a manifest"):
        load_source(f"tfrecord:{tmp_path}")


def test_unfinished_shards_are_refused(tmp_path):
    foreign(tmp_path, np.arange(4) % 2)
    (tmp_path / "manifest.partial.jsonl").write_text(json.dumps({}) + "\n")
    with pytest.raises(ValueError, match="not all written.*once more"):
        load_source(f"tfrecord:{tmp_path}")
