import io
import json
import os
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from bit_keras import datasets
from bit_keras.datasets import fetch, hierarchy, packages
from bit_keras.datasets.clipart import Selection, select, small
from bit_keras.fingerprint import Fingerprints
from bit_keras.sources import ASSETS, load_source

OPENCLIPART = "openclipart-png/usr/share/openclipart/png"
EMOJI = "emoji-datasource-google"
STAMPS = "tuxpaint-stamps-default/usr/share/tuxpaint/stamps"


def picture(seed, side=24):
    """A cut-out with a transparent surrounding, unlike that of any other seed."""
    rng = np.random.default_rng(seed)
    pixels = np.zeros([side, side, 4], np.uint8)
    inner = rng.integers(0, 200, (side // 8, side // 8, 3)).repeat(6, 0).repeat(6, 1)
    pixels[3 : 3 + len(inner), 3 : 3 + len(inner), :3] = inner
    pixels[3 : 3 + len(inner), 3 : 3 + len(inner), 3] = 255
    return Image.fromarray(pixels)


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def fake_openclipart(manual):
    """Folders of 20, 15 and 4, and one of everything that is left out."""
    root = manual / OPENCLIPART
    for folder, count, first in (
        ("animals/birds", 20, 0),
        ("animals/fish", 15, 100),
        ("animals/fish/small", 4, 200),
        ("logos", 3, 300),
        ("animals/mammals/bears", 2, 400),
        ("shapes/stars", 2, 410),
        ("unsorted", 1, 420),
    ):
        for i in range(count):
            save(root / folder / f"{chr(97 + i)}_drawing.png", picture(first + i))
    birds = root / "animals" / "birds"
    (birds / "broken.png").write_bytes(b"no image")
    (birds / "link.png").symlink_to("a_drawing.png")
    save(birds / "same.png", picture(0))
    save(birds / "white.png", Image.new("RGBA", (9, 9), (255, 255, 255, 255)))
    save(birds / "bomb.png", Image.new("1", (5000, 5000)))
    embedded = sorted((ASSETS / "openclipart-mini/test/mammals").glob("*.png"))[0]
    save(birds / "embedded.png", Image.open(embedded).convert("RGB").resize((200, 200)))
    return manual


def fake_emoji(manual):
    """Ten hands of two skin tones each, and 20 foods."""
    root = manual / EMOJI
    table = []
    for i in range(30):
        code = f"1f9{i:02x}"
        hand = i < 10
        category = ("People & Body", "hand-prop") if hand else ("Food & Drink", "food-fruit")
        entry = {"category": category[0], "subcategory": category[1], "has_img_google": True}
        entry["image"] = f"{code}.png"
        save(root / "img/google/64" / entry["image"], picture(1000 + i, 64))
        if hand:
            image = f"{code}-1f3fb.png"
            entry["skin_variations"] = {"1F3FB": {"image": image, "has_img_google": True}}
            save(root / "img/google/64" / image, picture(2000 + i, 64))
        table.append(entry)
    table.append({**table[-1], "image": "none.png"})
    (root / "emoji.json").write_text(json.dumps(table))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A TFDS folder with both data sets prepared, by name as a user does it."""
    folder = tmp_path_factory.mktemp("tfds")
    manual = fake_openclipart(folder / "downloads" / "manual")
    fake_emoji(manual)
    for i, part in enumerate(("animals/birds", "plants/flowers", "food/fruit", "animals/insects")):
        save(manual / STAMPS / part / "cartoon" / "one.png", picture(3000 + i))
    save(manual / STAMPS / "animals/mammals" / "two.png", picture(3010))
    save(manual / STAMPS / "food/vegetables" / "three.png", picture(3011))
    save(manual / STAMPS / "vehicles" / "four.png", picture(3012))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(folder))
        load_source("tfds:clipart")
        load_source("tfds:stamps")
        yield folder


def read(data_dir, name):
    datasets.register()
    builder = tfds.builder(name, data_dir=data_dir)
    parts = {s: list(tfds.as_numpy(builder.as_dataset(split=s))) for s in builder.info.splits}
    return builder.info, parts


def names_of(examples):
    return {example["name"].decode() for example in examples}


# clipart


def test_clipart_has_category_and_sub_category_of_each_image(data_dir):
    info, parts = read(data_dir, "clipart")
    names = info.features["label"].names
    assert names == [
        "emoji/food_drink",
        "emoji/food_drink/food_fruit",
        "emoji/people_body",
        "emoji/people_body/hand_prop",
        "openclipart/animals",
        "openclipart/animals/birds",
        "openclipart/animals/fish",
    ]
    assert info.features["labels"].feature.names == names
    for example in parts["train"] + parts["validation"]:
        labels = [names[i] for i in example["labels"]]
        assert labels == [labels[1].rpartition("/")[0], labels[1]]
        assert example["label"] == example["labels"][-1]
        assert example["name"].decode().startswith(labels[0].split("/")[0])


def test_clipart_says_what_it_left_out(data_dir):
    info, parts = read(data_dir, "clipart")
    assert info.metadata["dropped"] == {
        "blank on white": 1,
        "category too small": 3,
        "emoji without image": 1,
        "exact duplicate": 1,
        "folder of the embedded set": 2,
        "near-duplicate of an embedded image": 1,
        "stars and unsorted": 3,
        "symbolic link": 1,
        "too many pixels": 1,
        "undecodable": 1,
    }
    names = names_of(parts["train"]) | names_of(parts["validation"])
    assert len(names) == 20 + 15 + 4 + 20 + 20
    assert "openclipart/animals/birds/embedded.png" not in names
    assert "openclipart/animals/fish/small/a_drawing.png" in names


def test_clipart_keeps_skin_tones_in_one_split(data_dir):
    _, parts = read(data_dir, "clipart")
    split_of = {n: split for split, part in parts.items() for n in names_of(part)}
    hands = [n for n in split_of if "-1f3fb" in n]
    assert len(hands) == 10
    assert all(split_of[n] == split_of[n.replace("-1f3fb", "")] for n in hands)
    assert {"train", "validation"} == {split_of[n] for n in split_of}


def test_clipart_images_are_small_and_on_white(data_dir):
    _, parts = read(data_dir, "clipart")
    for example in parts["train"][:5]:
        assert max(example["image"].shape) <= 128
        assert (example["image"][0, 0] == 255).all()
    assert small(np.zeros([100, 400, 3], np.uint8)).shape == (32, 128, 3)


def test_a_drawing_lost_in_its_image_is_cut_out():
    pixels = np.full([1000, 1000, 3], 255, np.uint8)
    pixels[100:180, 300:380] = 7
    assert small(pixels).shape == (100, 100, 3)
    pixels[100:700, 300:900] = 7
    assert small(pixels).shape == (128, 128, 3)


def test_clipart_and_stamps_open_by_name_as_any_other(data_dir):
    source = load_source("tfds:clipart")
    assert sum(source.splits.values()) == 79
    example = next(iter(source.examples("validation")))
    assert example["image"].shape[-1] == 3
    assert source.multi_label
    names = [source.class_names[i] for i in np.flatnonzero(example["label"])]
    assert [name.count("/") for name in names] == [1, 2]  # a category and a class within it
    assert names[1].startswith(names[0] + "/")


def test_clipart_honours_an_exclusion_list(tmp_path):
    fake_emoji(fake_openclipart(tmp_path))
    name = "openclipart/animals/birds/b_drawing.png"
    (tmp_path / "exclude.txt").write_text(f"# comment\ntrain\t7\t{name}\n")
    examples, dropped = select(tmp_path)
    assert dropped["exclusion list"] == 1
    assert name not in {example.name for example in examples}


def test_clipart_says_where_packages_have_to_be(tmp_path, monkeypatch):
    fake_openclipart(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"emoji-datasource-google holds no drawings.*fetch"
    ):
        select(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match=r"(?s)by hand.*apt-get download openclipart-png"):
        load_source("tfds:clipart")


def test_every_source_of_the_embedded_set_is_in_a_folder_left_out():
    lines = (ASSETS / "openclipart-mini/provenance.csv").read_text().splitlines()[1:]
    sources = [line.split(",")[1].partition("/png/")[2] for line in lines]
    assert len(sources) > 600
    assert {s.rpartition("/")[0] for s in sources} <= packages.EMBEDDED_FOLDERS


def test_nothing_is_selected_twice(tmp_path):
    selection = Selection(set(), Fingerprints([]))
    save(tmp_path / "a.png", picture(1))
    drawing = packages.Drawing(tmp_path / "a.png", "a", ("p", "a"), "a")
    assert selection.read(drawing).startswith(b"\x89PNG")
    assert selection.read(drawing) is None


# hierarchy and groups


def test_small_classes_are_merged_upwards():
    folders = [("p", "a", "x", "y")] * 2 + [("p", "a", "x")] + [("p", "a", "z")] * 3 + [("q", "b")]
    leaves = hierarchy.leaf_classes(folders, least=3)
    assert leaves == [("p", "a", "x")] * 3 + [("p", "a", "z")] * 3 + [None]
    assert hierarchy.leaf_classes(folders, least=4)[0] == ("p", "a")
    assert hierarchy.leaf_classes([], least=4) == []


def test_validation_is_stratified_and_keeps_groups():
    classes = [("p", c) for c in "ab" for _ in range(100)]
    groups = [f"{c}{i // 2}" for c in "ab" for i in range(100)]
    held = hierarchy.held_out(classes, groups, 0.1)
    assert sum(held[:100]) == sum(held[100:]) == 10
    assert held[::2] == held[1::2]
    assert held != hierarchy.held_out(classes, groups, 0.1, seed=1)


def test_validation_hardly_moves_when_examples_come_and_go():
    groups = [str(i) for i in range(200)]
    before = hierarchy.held_out([("p", "a")] * 200, groups, 0.1)
    after = hierarchy.held_out([("p", "a")] * 190, groups[10:], 0.1)
    assert sum(x != y for x, y in zip(before[10:], after, strict=True)) <= 2


@pytest.mark.parametrize(
    ("code", "other"),
    [
        ("1f44d", "1f44d-1f3fd"),
        ("1f3c3", "1f3c3-1f3fb-200d-2640-fe0f"),
        ("1f9d1-200d-1f692", "1f468-1f3ff-200d-1f692"),
        ("1f6b6", "1f6b6-200d-27a1-fe0f"),
    ],
)
def test_variants_of_an_emoji_have_one_base_code(code, other):
    assert packages.base_code(code) == packages.base_code(other)
    assert packages.base_code(code) != packages.base_code("1f44e")


# stamps


def test_stamps_has_six_classes_and_one_split(data_dir):
    info, parts = read(data_dir, "stamps")
    assert list(parts) == ["train"]
    assert info.features["label"].num_classes == 6
    assert names_of(parts["train"]) == {
        "animals/birds/cartoon/one.png",
        "animals/insects/cartoon/one.png",
        "animals/mammals/two.png",
        "food/fruit/cartoon/one.png",
        "food/vegetables/three.png",
        "plants/flowers/cartoon/one.png",
    }
    assert all((e["image"][0, 0] == 255).all() for e in parts["train"])


def test_stamps_misses_its_folders(tmp_path, monkeypatch):
    manual = tmp_path / "downloads" / "manual"
    save(manual / STAMPS / "animals/birds" / "one.png", picture(1))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"(?s)must hold plants/flowers.*dpkg-deb -x"):
        load_source("tfds:stamps")


def test_importing_the_package_does_not_import_tensorflow():
    code = "import sys, bit_keras.datasets.fetch; sys.exit('tensorflow_datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# fetch


def make_tar(path, members):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            if content is None:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def fake_client(folder, name, script):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_fetch_runs_the_clients_and_unpacks(tmp_path, monkeypatch):
    tar = make_tar(
        tmp_path / "e.tgz",
        {"package/emoji.json": b"[]", "package/img/google/64/a.png": b"x", "package/big": b"y"},
    )
    deb = make_tar(tmp_path / "d.tar", {"./usr/share/a.png": b"a", "./usr/share/link": None})
    fake_client(tmp_path / "bin", "npm", f'test "$2" = {EMOJI}@16.0.0 && cp {tar} e.tgz')
    fake_client(tmp_path / "bin", "apt-get", 'test "$1" = download && echo deb > "$2"_1.deb')
    fake_client(tmp_path / "bin", "dpkg-deb", f"cat {deb}")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert fetch.main(["clipart", str(tmp_path / "out")]) == 0
    found = sorted(p.relative_to(tmp_path / "out") for p in (tmp_path / "out").rglob("*.*"))
    assert list(map(str, found)) == [
        "emoji-datasource-google/emoji.json",
        "emoji-datasource-google/img/google/64/a.png",
        "openclipart-png/usr/share/a.png",
    ]
    monkeypatch.setenv("PATH", "")
    assert fetch.main(["clipart", str(tmp_path / "out")]) == 0  # there already


def test_fetch_says_which_client_is_missing_or_failed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert fetch.main(["stamps", str(tmp_path / "out")]) == 1
    assert "'dpkg-deb' is needed and was not found" in capsys.readouterr().err
    fake_client(tmp_path / "bin", "dpkg-deb", "exit 0")
    fake_client(tmp_path / "bin", "apt-get", "echo 'E: Unable to locate package' >&2; exit 100")
    assert fetch.main(["stamps", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    assert "status 100: E: Unable to locate package" in message
    assert "apt-get update" in message
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("name", ["/etc/passwd", "../outside", "package/../../outside"])
def test_paths_that_lead_out_of_the_folder_are_refused(tmp_path, name):
    archive = make_tar(tmp_path / "a.tgz", {name: b"evil"})
    (tmp_path / "out").mkdir()
    with pytest.raises(fetch.FetchError, match="leads out of the folder"):
        fetch.unpack(archive, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_links_are_not_unpacked(tmp_path):
    archive = make_tar(tmp_path / "a.tgz", {"link": None, "file": b"1"})
    (tmp_path / "out").mkdir()
    assert fetch.unpack(archive, tmp_path / "out") == 1
    assert os.listdir(tmp_path / "out") == ["file"]


def test_damaged_and_foreign_archives_are_refused(tmp_path, monkeypatch):
    archive = make_tar(tmp_path / "a.tgz", {"file": b"1" * 100})
    with pytest.raises(fetch.FetchError, match="has none of"):
        fetch.unpack(archive, tmp_path, ["*.png"])
    with monkeypatch.context() as patch:
        patch.setattr(fetch, "MAX_UNPACKED", 10)
        with pytest.raises(fetch.FetchError, match="unpacks to over"):
            fetch.unpack(archive, tmp_path)
    archive.write_bytes(b"nothing")
    with pytest.raises(fetch.FetchError, match="damaged"):
        fetch.unpack(archive, tmp_path)


def test_unknown_data_sets_are_refused(tmp_path):
    with pytest.raises(ValueError, match="Received: 'cats'. Known: clipart, stamps"):
        fetch.fetch("cats", tmp_path)
