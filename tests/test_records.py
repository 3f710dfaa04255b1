import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from bit_keras import cli, shard_writer
from bit_keras.options import DataOptions
from bit_keras.records import RecordsError, verify_records, write_records
from bit_keras.sources import load_source
from bit_keras.sources.base import IndexedSource, Source


def make_folder(root, count=12):
    """Two classes in two splits: PNG, JPEG and BMP files by turns, of different values."""
    for split, n in (("train", count), ("test", 3)):
        for label, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for i in range(n):
                suffix = ("png", "jpg", "bmp")[i % 3]
                image = Image.new("RGB", (9, 7), (i, 100 * label, 5))
                image.save(root / split / name / f"{i:02d}.{suffix}")
    return root


def make_npz(path, count=40):
    images = np.repeat(np.arange(count, dtype=np.uint8), 30).reshape(count, 6, 5)
    np.savez(path, x_train=images, y_train=np.arange(count) % 2)
    return f"npz:{path}"


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def read(dataset):
    return [{key: value.numpy() for key, value in example.items()} for example in dataset]


class ManyLabels(IndexedSource):
    """Four images with 1, 2, 0 and 1 labels."""

    multi_label = True
    hot = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0], [0, 0, 1]], np.float32)

    def __init__(self):
        super().__init__("many", ["a", "b", "c"], {"train": np.zeros(4)})

    def read_image(self, split, index):
        return np.full((5, 6, 3), index, np.uint8)

    def examples(self, split, indices=None):
        hot = tf.constant(self.hot)
        examples = super().examples(split, indices)
        return examples.map(lambda e: {**e, "label": tf.gather(hot, e["index"])})


def test_what_was_written_is_read_back(tmp_path):
    source = load_source(f"folder:{make_folder(tmp_path / 'images')}")
    manifest = write_records(source, tmp_path / "out", shards=4, workers=2)
    back = load_source(f"tfrecord:{tmp_path / 'out'}")
    assert manifest.splits == back.splits == source.splits
    assert back.class_names == source.class_names
    for split in source.splits:
        pairs = []
        for one in (source, back):
            examples = read(one.examples(split))
            pairs.append(sorted((e["image"].tobytes(), int(e["label"])) for e in examples))
        assert pairs[0] == pairs[1]
        np.testing.assert_array_equal(back.class_counts(split), source.class_counts(split))
    assert {shard.split: shard.examples for shard in manifest.shards} == {"train": 6, "test": 1}


def test_jpeg_and_png_files_are_stored_as_they_are(tmp_path):
    root = make_folder(tmp_path / "images")
    source = load_source(f"folder:{root}")
    write_records(source, tmp_path / "out")
    stored = {e["encoded"] for e in read(load_source(f"tfrecord:{tmp_path}/out").encoded("train"))}
    files = [p for p in (root / "train").rglob("*.*") if p.suffix != ".bmp"]
    assert {p.read_bytes() for p in files} <= stored
    assert sum(data.startswith(b"\x89PNG") for data in stored) == 16  # eight are from BMP


def test_quality_makes_jpeg_of_other_images_only(tmp_path):
    source = load_source(f"folder:{make_folder(tmp_path / 'images')}")
    manifest = write_records(source, tmp_path / "out", quality=90)
    assert manifest.settings["quality"] == 90
    stored = [e["encoded"] for e in read(load_source(f"tfrecord:{tmp_path}/out").encoded("train"))]
    assert sum(data.startswith(b"\x89PNG") for data in stored) == 8
    write_records(load_source(make_npz(tmp_path / "a.npz")), tmp_path / "npz", quality=90)
    examples = read(load_source(f"tfrecord:{tmp_path}/npz").encoded("train"))
    assert all(e["encoded"].startswith(b"\xff\xd8\xff") for e in examples)


def test_records_have_the_usual_features(tmp_path):
    source = load_source(f"folder:{make_folder(tmp_path / 'images', 1)}")
    write_records(source, tmp_path / "out", splits=["train"])
    file = tmp_path / "out" / "train-00000-of-00001.tfrecord"
    record = next(iter(tf.data.TFRecordDataset(str(file)))).numpy()
    feature = tf.train.Example.FromString(record).features.feature
    label = feature["image/class/label"].int64_list.value[0]
    assert feature["image/class/text"].bytes_list.value == [[b"cat", b"dog"][label]]
    assert feature["image/format"].bytes_list.value == [b"PNG"]


def test_the_assignment_is_a_function_of_the_seed(tmp_path):
    source = load_source(make_npz(tmp_path / "a.npz"))
    for name, seed, workers in (("a", 0, 1), ("b", 0, 4), ("c", 1, 1)):
        write_records(source, tmp_path / name, shards=3, seed=seed, workers=workers)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    name = "train-00000-of-00003.tfrecord"
    assert contents(tmp_path / "a")[name] != contents(tmp_path / "c")[name]


def test_every_shard_is_a_mixture(tmp_path):
    source = load_source(f"folder:{make_folder(tmp_path / 'images', 30)}")
    write_records(source, tmp_path / "out", shards=2)
    for k in (0, 1):
        part = load_source(f"tfrecord:{tmp_path}/out/train-0000{k}-*")
        assert min(part.class_counts("train")) >= 8


def test_several_labels_survive(tmp_path):
    write_records(ManyLabels(), tmp_path / "out", shards=2)
    back = load_source(f"tfrecord:{tmp_path / 'out'}")
    assert back.multi_label
    np.testing.assert_array_equal(back.class_counts("train"), [1, 1, 2])
    for example in read(back.examples("train")):
        value = example["image"][0, 0, 0]
        np.testing.assert_array_equal(example["label"], ManyLabels.hot[value])


def test_sources_without_random_access_are_read_in_passes(tmp_path, monkeypatch):
    monkeypatch.setattr("bit_keras.records._OPEN_SHARDS", 2)
    source = load_source(make_npz(tmp_path / "a.npz"))
    write_records(source, tmp_path / "first", shards=2)
    records = load_source(f"tfrecord:{tmp_path / 'first'}")
    assert not records.random_access
    passes = []
    encoded = records.encoded
    monkeypatch.setattr(records, "encoded", lambda *a, **k: passes.append(a) or encoded(*a, **k))
    manifest = write_records(records, tmp_path / "second", shards=5)
    assert len(passes) == 3
    assert [shard.examples for shard in manifest.shards] == [8] * 5
    back = load_source(f"tfrecord:{tmp_path / 'second'}")
    values = sorted(int(e["image"][0, 0, 0]) for e in back.examples("train"))
    assert values == list(range(40))


def test_broken_files_are_left_out_and_named(tmp_path):
    root = make_folder(tmp_path / "images")
    (root / "train" / "cat" / "00.png").write_bytes(b"")
    (root / "train" / "dog" / "clip.mp4").write_bytes(b"movie")
    manifest = write_records(load_source(f"folder:{root}"), tmp_path / "out", shards=3)
    assert manifest.splits == {"train": 23, "test": 6}
    assert manifest.class_counts["train"] == [11, 12]
    assert manifest.skipped == {
        "train/cat/00.png": "empty file",
        "train/dog/clip.mp4": "not an image file",
    }
    (root / "train" / "dog" / "clip.mp4").unlink()
    strict = load_source(f"folder:{root}", strict=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match="train/cat/00.png"):
        write_records(strict, tmp_path / "strict", shards=3)
    assert "manifest.json" not in contents(tmp_path / "strict")


@pytest.mark.parametrize(("stop_after", "finished"), [(3, 0), (14, 2)])
def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(
    tmp_path, monkeypatch, stop_after, finished
):
    root = make_folder(tmp_path / "images")
    (root / "train" / "cat" / "03.png").write_bytes(b"")
    write_records(load_source(f"folder:{root}"), tmp_path / "whole", shards=4)
    add = shard_writer.OpenShard.add
    written = []

    def failing(self, *args):
        if len(written) == stop_after:
            raise KeyboardInterrupt
        written.append(args)
        add(self, *args)

    monkeypatch.setattr(shard_writer.OpenShard, "add", failing)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        write_records(load_source(f"folder:{root}"), out, shards=4)
    assert len(list(out.glob("*.tfrecord"))) == finished
    if finished:
        with pytest.raises(ValueError, match="not all written"):
            load_source(f"tfrecord:{out}")

    def counting(self, *args):
        written.append(args)
        add(self, *args)

    written.clear()
    monkeypatch.setattr(shard_writer.OpenShard, "add", counting)
    write_records(load_source(f"folder:{root}"), out, shards=4)
    # Of 23 and 6 usable images; finished shards, of 6 or 5 each, are not written again.
    assert 29 - 6 * finished <= len(written) <= 29 - 5 * finished
    assert contents(out) == contents(tmp_path / "whole")


def test_what_a_kill_leaves_behind_is_cleared_away(tmp_path):
    source = load_source(make_npz(tmp_path / "a.npz"))
    write_records(source, tmp_path / "whole", shards=4)
    out = tmp_path / "out"
    write_records(source, out, shards=4)
    names = sorted(path.name for path in out.glob("*.tfrecord"))
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").unlink()
    entries = [
        {**shard, "planned": 10, "labels": {"0": 5, "1": 5}, "skipped": {}}
        for shard in manifest["shards"]
    ]
    lines = [json.dumps(line) for line in (manifest["settings"], *entries)]
    # Killed while noting the second shard; the third was cut, the fourth never noted.
    (out / "manifest.partial.jsonl").write_text("\n".join(lines[:2]) + "\n" + lines[2][:30])
    (out / names[2]).write_bytes(b"half")
    (out / f".{names[3]}.abc.partial").mkdir()
    write_records(source, out, shards=4)
    found, expected = contents(out), contents(tmp_path / "whole")
    assert set(found) == set(expected)
    assert all(found[name] == expected[name] for name in names)


def test_a_process_killed_with_9_ends_the_same_when_run_again(tmp_path):
    source = make_npz(tmp_path / "a.npz", 240)
    out = tmp_path / "out"
    script = f"""
import time
from bit_keras import shard_writer
from bit_keras.records import write_records
from bit_keras.sources import load_source
add = shard_writer.OpenShard.add
def slow(self, *args):
    time.sleep(0.02)
    add(self, *args)
shard_writer.OpenShard.add = slow
write_records(load_source("{source}"), "{out}", shards=12)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(out.glob("*.tfrecord"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 2 <= len(list(out.glob("*.tfrecord"))) < 12
    for folder in (out, tmp_path / "whole"):
        write_records(load_source(source), folder, shards=12)
    assert contents(out) == contents(tmp_path / "whole")


def test_a_finished_folder_is_left_alone(tmp_path, monkeypatch):
    source = load_source(make_npz(tmp_path / "a.npz"))
    first = write_records(source, tmp_path / "out", shards=2)
    monkeypatch.setattr(Source, "encoded", None)
    assert write_records(source, tmp_path / "out", shards=2) == first


def test_a_taken_folder_is_refused_and_can_be_overwritten(tmp_path):
    source = load_source(make_npz(tmp_path / "a.npz"))
    out = tmp_path / "out"
    write_records(source, out, shards=3)
    with pytest.raises(RecordsError, match=r"shards: {'train': 3} then, {'train': 2} now.*overwr"):
        write_records(source, out, shards=2)
    write_records(source, out, shards=2, overwrite=True)
    assert len(list(out.glob("*.tfrecord"))) == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(RecordsError, match="holds no shards"):
            write_records(source, tmp_path / "mine", overwrite=overwrite)
    assert (tmp_path / "mine" / "thesis.txt").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shards": 0}, "shards=0"),
        ({"seed": -1}, "seed=-1"),
        ({"quality": 101}, "quality=101"),
        ({"splits": ["val"]}, "Received: val. It has: train"),
    ],
)
def test_numbers_and_splits_that_cannot_be_are_refused(tmp_path, arguments, message):
    source = load_source(make_npz(tmp_path / "a.npz"))
    with pytest.raises(ValueError, match=message):
        write_records(source, tmp_path / "out", **arguments)
    with pytest.raises(ValueError, match="local folder"):
        write_records(source, "gs://bucket/out")


def test_more_shards_than_examples_are_not_made(tmp_path):
    source = load_source(make_npz(tmp_path / "a.npz", 3))
    assert len(write_records(source, tmp_path / "out", shards=8).shards) == 3


def test_verify_names_every_damaged_and_missing_shard(tmp_path):
    source = load_source(make_npz(tmp_path / "a.npz"))
    out = tmp_path / "out"
    manifest = write_records(source, out, shards=4)
    assert verify_records(out) == manifest
    files = [out / shard.file for shard in manifest.shards]
    data = bytearray(files[1].read_bytes())
    data[len(data) // 2] ^= 1
    files[1].write_bytes(data)
    files[3].unlink()
    with pytest.raises(RecordsError, match="2 of 4 files") as caught:
        verify_records(out, workers=2)
    assert f"{files[1].name} (damaged), {files[3].name} (missing)" in str(caught.value)
    with pytest.raises(RecordsError, match="has no manifest.json"):
        verify_records(tmp_path)


def test_the_command_writes_verifies_and_overwrites(tmp_path, capsys):
    source, out = make_npz(tmp_path / "a.npz"), tmp_path / "out"
    command = ["data", f"--source={source}", f"--output={out}", "--noprogress"]
    assert cli.run([*command, "--shards=2", "--verify"]) == 0
    told = capsys.readouterr().out
    assert "train      2      40" in told
    assert "All 2 shards" in told
    assert f"tfrecord:{out}" in told
    assert cli.run([*command, "--shards=3"]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert cli.run([*command, "--shards=3", "--overwrite", "--splits=train"]) == 0
    next(out.glob("*.tfrecord")).write_bytes(b"")
    assert cli.run(["data", f"--output={out}", "--verify"]) == 1
    assert "(damaged)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output=x"], "--source"),
        (["--source=npz:x"], "--output is required"),
        (["--source=npz:x", "--output=y", "--shards=0"], "shards must be at least 1"),
    ],
)
def test_usage_errors_of_the_command(arguments, message, capsys):
    assert cli.run(["data", *arguments]) == 2
    assert message in capsys.readouterr().err
    with pytest.raises(ValueError, match="workers must be"):
        DataOptions(output="x", source="y", workers=0)
