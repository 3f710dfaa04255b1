"""The embedded data set: complete, small, documented, and no image twice."""

import csv
import hashlib
import re
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1] / "bit_keras/assets/openclipart-mini"
FILES = sorted(ROOT.glob("*/*/*.png"))


def counts():
    return Counter((path.parts[-3], path.parts[-2]) for path in FILES)


@pytest.fixture(scope="module")
def provenance():
    with open(ROOT / "provenance.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_layout():
    assert {p.relative_to(ROOT).as_posix() for p in ROOT.rglob("*") if p.is_file()} == {
        "README.md",
        "provenance.csv",
        *(p.relative_to(ROOT).as_posix() for p in FILES),
    }
    assert {part for part, _ in counts()} == {"train", "test"}
    assert all(re.fullmatch(r"[a-z0-9_]+/[a-z0-9_]+\.png", "/".join(p.parts[-2:])) for p in FILES)


def test_classes_are_large_enough_and_in_both_splits():
    classes = {label for _, label in counts()}
    assert len(classes) >= 6
    for label in classes:
        train, test = counts()["train", label], counts()["test", label]
        assert train + test >= 60
        assert 0.2 <= test / (train + test) <= 0.3


def test_total_size():
    assert sum(p.stat().st_size for p in ROOT.rglob("*") if p.is_file()) <= 3_000_000


def test_images_decode_and_none_is_there_twice():
    seen = {}
    for path in FILES:
        with Image.open(path) as image:
            rgb = image.convert("RGB")
        assert min(rgb.size) >= 64
        assert any(low < high for low, high in rgb.getextrema()), f"{path} is blank"
        digest = hashlib.sha256(rgb.tobytes()).hexdigest()
        assert digest not in seen, f"{path} repeats {seen[digest]}"
        seen[digest] = path


def test_provenance_names_every_file_once(provenance):
    files = [row["file"] for row in provenance]
    assert sorted(files) == sorted(p.relative_to(ROOT).as_posix() for p in FILES)
    for column in ("source", "source_sha256"):
        assert len({row[column] for row in provenance}) == len(files)
    assert all(re.fullmatch(r"[0-9a-f]{64}", row["source_sha256"]) for row in provenance)


def test_readme_lists_counts_and_source_folders(provenance):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for label in {label for _, label in counts()}:
        row = f"| `{label}` | {counts()['train', label]} | {counts()['test', label]} |"
        assert row in readme
    folders = re.findall(r"(?m)^- `([a-z_/]+)`", readme)
    for row in provenance:
        source = row["source"].removeprefix("usr/share/openclipart/png/")
        assert any(source.startswith(f"{folder}/") for folder in folders), source
