import importlib.util
import io
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bit_keras.data import pretrain_batches
from bit_keras.datasets import archives, imagenet21k, prepare, synsets
from bit_keras.distribute import Part
from bit_keras.sources import load_source

needs_beam = pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None,
    reason="Apache Beam needs older versions of protobuf and Pillow: `make test-beam`",
)

TENCH, GOLDFISH, FISH, ROCK = "n01440764", "n01443537", "n02512053", "n09416076"


def image_file(seed, kind="JPEG", mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).repeat(4, 0).repeat(4, 1)
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).convert(mode).save(file, kind)
    return file.getvalue()


def names_in(synset, split, count):
    """Names of images that belong to a split, as the archives have them."""
    found = (f"{synset}_{i}.JPEG" for i in range(100_000))
    chosen = (n for n in found if archives.split_of(f"{synset}/{n}") == split)
    return [next(chosen) for _ in range(count)]


def write_tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def write_archives(folder):
    """Two synsets with one hypernym among the archives, and files of every kind."""
    for k, synset in enumerate((TENCH, GOLDFISH, FISH)):
        names = names_in(synset, "train", 4) + names_in(synset, "validation", 1)
        files = {name: image_file(10 * k + i) for i, name in enumerate(names)}
        if synset == TENCH:
            files[names[0]] = files[names[0]][:200]
            files[names[1]] = b""
            files[names[2]] = image_file(2, "GIF", "L")
        if synset == GOLDFISH:
            files[names[0]] = image_file(3, mode="CMYK")
            files[names[1]] = image_file(4, "PNG")
        write_tar(folder / f"{synset}.tar", files)
    (folder / imagenet21k.IS_A).write_text(f"n00015388 {FISH}\n{FISH} {TENCH}\n{FISH} {GOLDFISH}\n")
    (folder / "words.txt").write_text("not an archive\n")


def archive_of(path, synset=TENCH):
    return archives.Archive(str(path), synset, (synset,))


# Prepared by the direct runner


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A TFDS folder with the data set prepared as a user does it."""
    folder = tmp_path_factory.mktemp("tfds")
    write_archives(folder / "downloads" / "manual" / "winter21_whole")
    assert prepare.main(["imagenet21k", f"--data_dir={folder}"]) == 0
    return folder


@pytest.fixture
def source(data_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    return load_source("tfds:imagenet21k")


@needs_beam
def test_images_have_their_synset_and_its_hypernyms_as_labels(source):
    assert source.multi_label
    assert source.class_names == [TENCH, GOLDFISH, FISH]
    assert source.splits == {"train": 4 + 4 + 4 - 2, "validation": 3}
    counts = {split: source.class_counts(split).tolist() for split in source.splits}
    assert counts == {"train": [2, 4, 10], "validation": [1, 1, 3]}
    examples = [e["label"].numpy().tolist() for e in source.examples("validation")]
    assert sorted(examples) == [[0, 0, 1], [0, 1, 1], [1, 0, 1]]


@needs_beam
def test_files_that_tensorflow_decodes_are_stored_as_they_were(source):
    stored = {e["encoded"].numpy() for e in source.encoded("train")}
    assert image_file(20) in stored
    assert image_file(3, mode="CMYK") in stored
    assert image_file(4, "PNG") in stored
    assert image_file(2, "GIF", "L") not in stored
    images = [e["image"].numpy() for e in source.examples("train")]
    assert {image.shape for image in images} == {(24, 32, 3)}
    grey = np.asarray(Image.open(io.BytesIO(image_file(2, "GIF", "L"))).convert("RGB"))
    assert any(np.array_equal(image, grey) for image in images)


@needs_beam
def test_unreadable_files_are_counted_and_named(data_dir):
    report = next(data_dir.glob("imagenet21k/*/skipped.tsv")).read_text()
    broken, empty = names_in(TENCH, "train", 2)
    expected = sorted([f"{TENCH}/{broken}\ttruncated", f"{TENCH}/{empty}\tempty file"])
    assert report.splitlines() == expected
    metadata = next(data_dir.glob("imagenet21k/*/metadata.json")).read_text()
    assert '"skipped": 2' in metadata
    assert '"release": "winter21_whole"' in metadata


@needs_beam
def test_pre_training_reads_multi_label_batches(source):
    batches = pretrain_batches(
        source, "train", Part(0, 1, 10), size=16, num_classes=source.num_classes, seed=0
    )
    batch = next(iter(batches))
    assert batch["image"].shape == (10, 16, 16, 3)
    assert sorted(batch["label"].numpy().sum(1).tolist()) == [1.0] * 4 + [2.0] * 6


@needs_beam
def test_two_workers_write_the_same_as_one(data_dir, tmp_path):
    manual = data_dir / "downloads" / "manual"
    words = ["--direct_num_workers=2", "--direct_running_mode=multi_threading"]
    words += [f"--manual_dir={manual}"]
    assert prepare.main(["imagenet21k", f"--data_dir={tmp_path}", *words]) == 0
    for file in ("imagenet21k-train.tfrecord-00000-of-00001", "skipped.tsv"):
        one, other = (next(d.glob(f"imagenet21k/*/{file}")) for d in (data_dir, tmp_path))
        assert one.read_bytes() == other.read_bytes()


@needs_beam
def test_a_missing_folder_of_archives_is_told(tmp_path, capsys):
    (tmp_path / "downloads" / "manual" / "something").mkdir(parents=True)
    assert prepare.main(["imagenet21k", f"--data_dir={tmp_path}"]) == 1
    message = capsys.readouterr().err
    assert "must hold one of the folders winter21_whole" in message
    assert "tar -xzf winter21_whole.tar.gz" in message


@needs_beam
def test_flags_that_beam_does_not_know_are_refused(data_dir, tmp_path, capsys):
    words = ["--runer=DirectRunner", f"--data_dir={tmp_path}"]
    assert prepare.main(["imagenet21k", *words]) == 1
    assert "no such flags. Received: runer" in capsys.readouterr().err


@needs_beam
def test_beam_flags_in_the_documentation_exist():
    page = Path(__file__).parent.parent / "docs" / "data.md"
    text = page.read_text("utf-8").replace("\\\n", " ")
    commands = re.findall(r"^ +python -m bit_keras.datasets.prepare imagenet21k (.*)", text, re.M)
    assert len(commands) >= 4
    for command in commands:
        flags = [f for f in command.split() if not re.match("--(data|manual)_dir=", f)]
        prepare.beam_options(flags)


# Without Beam


def test_opening_it_unprepared_says_how_to_prepare_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    write_archives(tmp_path / "downloads" / "manual" / "winter21_whole")
    with pytest.raises(ValueError, match=r"(?s)a job of its own.*datasets.prepare imagenet21k"):
        load_source("tfds:imagenet21k")


def test_missing_beam_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prepare, "find_spec", lambda name: None)
    assert prepare.main(["imagenet21k", f"--data_dir={tmp_path}"]) == 1
    assert "pip install 'bit-keras[beam]'" in capsys.readouterr().err


def test_two_releases_or_none_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="Received: none of them"):
        imagenet21k.archive_folder(tmp_path)
    for name in ("fall11_whole", "winter21_whole"):
        (tmp_path / name).mkdir()
    with pytest.raises(FileNotFoundError, match=r"Received: .*winter21_whole, .*fall11_whole"):
        imagenet21k.archive_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"holds no n\*.tar"):
        imagenet21k.list_archives(tmp_path / "fall11_whole")


def test_labels_txt_sets_the_classes_and_their_order(tmp_path):
    write_archives(tmp_path)
    (tmp_path / imagenet21k.LABELS).write_text(f"{ROCK}\n{FISH} fish\n{TENCH}\n")
    found, names, unmatched = imagenet21k.list_archives(tmp_path)
    assert names == [ROCK, FISH, TENCH]
    assert [(a.synset, a.labels) for a in found] == [(TENCH, (TENCH, FISH)), (FISH, (FISH,))]
    assert unmatched == {"archives without a class": 1, "classes without an archive": 1}
    (tmp_path / imagenet21k.LABELS).write_text(f"{FISH}\n{FISH}\n")
    with pytest.raises(ValueError, match=f"twice: {FISH}"):
        imagenet21k.list_archives(tmp_path)
    (tmp_path / imagenet21k.LABELS).write_text(f"{ROCK}\n")
    with pytest.raises(ValueError, match="names none of the 3 synsets"):
        imagenet21k.list_archives(tmp_path)


def test_hypernyms_of_several_parents_and_loops_come_once(tmp_path):
    path = tmp_path / "is_a.txt"
    path.write_text("a c\nb c\nr a\nr b\n\nc r\n")
    parents = synsets.read_is_a(path)
    assert synsets.ancestors("c", parents) == ["a", "b", "r"]
    path.write_text("a b c\n")
    with pytest.raises(ValueError, match=r"is_a.txt:1: .*'a b c'"):
        synsets.read_is_a(path)


def test_a_damaged_archive_keeps_what_came_before(tmp_path):
    path = tmp_path / f"{TENCH}.tar"
    names = names_in(TENCH, "train", 3)
    write_tar(path, {name: image_file(i) for i, name in enumerate(names)})
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    path.write_bytes(path.read_bytes()[: members[2].offset_data + 100])
    *kept, (kind, (name, reason)) = archives.read_archive(archive_of(path))
    assert [item[0] for _, item in kept] == [f"{TENCH}/{n}" for n in names[:2]]
    assert (kind, name) == ("skipped", str(path))
    assert "damaged archive" in reason
    path.write_bytes(b"no tar file" * 100)
    ((kind, (name, _)),) = archives.read_archive(archive_of(path))
    assert (kind, name) == ("skipped", str(path))


def test_one_image_in_256_is_held_out():
    held = sum(archives.split_of(f"n01440764/{i}.JPEG") == "validation" for i in range(51_200))
    assert abs(held - 200) < 3 * np.sqrt(200)


def test_the_builder_registers_without_beam():
    code = "import sys; from bit_keras import datasets; datasets.register(); "
    code += "sys.exit('apache_beam' in sys.modules)"
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0
