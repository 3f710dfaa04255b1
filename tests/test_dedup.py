import json
import pathlib

import numpy as np
import pytest
from matplotlib import image as images
from PIL import Image, ImageDraw

from bit_keras.dedup import find_duplicates, perceptual_hash, read_exclusions, run, summary
from bit_keras.fingerprint import Fingerprints, bits_apart, fingerprint
from bit_keras.images import decode_image
from bit_keras.options import DedupOptions
from bit_keras.sources import ASSETS, load_source


def drawing(seed, side=120):
    """A few coloured shapes on white, as a clip art."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (side, side), "white")
    pen = ImageDraw.Draw(image)
    for _ in range(6):
        x, y = sorted(rng.integers(0, side, 2)), sorted(rng.integers(0, side, 2))
        box = (x[0], y[0], x[1] + 9, y[1] + 9)
        pen.ellipse(box, fill=tuple(int(c) for c in rng.integers(0, 230, 3)))
    return image


def pixels(image):
    return np.asarray(image.convert("RGB"))


def copies(image):
    """The same picture as others would publish it."""
    framed = Image.new("RGB", (300, 200), "white")
    framed.paste(image, (37, 50))
    return {
        "smaller": image.resize((60, 60), Image.Resampling.LANCZOS),
        "larger": image.resize((333, 333), Image.Resampling.BICUBIC),
        "few colours": image.quantize(32),
        "framed": framed,
    }


def distance(a, b):
    return int(bits_apart(np.array([perceptual_hash(a)]), perceptual_hash(b))[0])


@pytest.mark.parametrize("kind", ["smaller", "larger", "few colours", "framed"])
def test_copies_of_a_drawing_have_nearly_its_hash(kind):
    for seed in range(10):
        image = drawing(seed)
        copy = pixels(copies(image)[kind])
        assert distance(pixels(image), copy) <= 8
        assert Fingerprints([fingerprint(pixels(image))]).like(fingerprint(copy)) == [0]


def test_other_drawings_have_other_hashes():
    prints = [fingerprint(pixels(drawing(seed))) for seed in range(30)]
    hashes = np.array([p.hash for p in prints])
    assert hashes.dtype == np.uint64
    apart = np.stack([bits_apart(hashes, p.hash) for p in prints])
    assert np.median(apart[~np.eye(30, dtype=bool)]) > 16
    assert all(Fingerprints(prints).like(p) == [i] for i, p in enumerate(prints))


def test_colours_tell_apart_what_the_hash_does_not():
    def flag(*stripes):
        return pixels(Image.fromarray(np.array([stripes], np.uint8)).resize((90, 60), 0))

    france = flag((0, 0, 160), (250, 240, 250), (230, 0, 30))
    ireland = flag((0, 110, 60), (250, 240, 250), (240, 90, 30))
    assert distance(france, ireland) == 0
    assert Fingerprints([fingerprint(france)]).like(fingerprint(ireland)) == []


def test_proportions_tell_apart_what_is_long_and_thin():
    bar, beam = (np.zeros([20, width, 3], np.uint8) for width in (100, 140))
    assert distance(bar, beam) == 0
    assert Fingerprints([fingerprint(bar)]).like(fingerprint(beam)) == []


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 4), (0, 8, 3)])
def test_what_is_no_rgb_image_is_refused(shape):
    with pytest.raises(ValueError, match=r"uint8 \[height, width, 3\]. Received: uint8"):
        perceptual_hash(np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match="Received: float64"):
        perceptual_hash(np.zeros([8, 8, 3]))


def test_a_blank_or_tiny_image_has_a_hash_too():
    assert perceptual_hash(np.full([4, 4, 3], 255, np.uint8)) == 0
    assert perceptual_hash(np.zeros([1, 1, 3], np.uint8)) == 0


def test_what_is_white_all_over_is_like_nothing():
    white = fingerprint(np.full([30, 30, 3], 255, np.uint8))
    faint = np.full([30, 30, 3], 255, np.uint8)
    faint[::29] = 100
    assert not Fingerprints([white]).like(white)
    assert not Fingerprints([white]).like(fingerprint(faint), distance=63)


def test_the_embedded_set_has_no_image_in_both_splits():
    read = {
        split: [
            fingerprint(decode_image(path.read_bytes()))
            for path in sorted((ASSETS / "openclipart-mini" / split).glob("*/*.png"))[::4]
        ]
        for split in ("train", "test")
    }
    known = Fingerprints(read["train"])
    assert not any(known.like(image, distance=2) for image in read["test"])


# find_duplicates and run


def two_sets(root):
    """Upstream 12 drawings; downstream has copies of 3 and 11, and eight others."""
    for seed in range(12):
        folder = root / "up" / ("cat" if seed % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        drawing(seed).save(folder / f"{seed:02}.png")
    for seed in (3, 11, *range(100, 108)):
        folder = root / "down" / ("apple" if seed % 2 else "pear")
        folder.mkdir(parents=True, exist_ok=True)
        copies(drawing(seed))["framed"].resize((150, 100)).save(folder / f"{seed}.png")
    return DedupOptions(
        f"folder:{root / 'up'}", f"folder:{root / 'down'}", str(root / "out"), progress=False
    )


def test_duplicates_are_found_over_all_splits(tmp_path):
    options = two_sets(tmp_path)
    upstream, downstream = load_source(options.upstream), load_source(options.downstream)
    pairs = find_duplicates(upstream, downstream)
    assert {(p.upstream.name, p.downstream.name) for p in pairs} == {
        ("cat/03.png", "apple/3.png"),
        ("cat/11.png", "apple/11.png"),
    }
    for pair in pairs:
        place = pair.upstream
        assert upstream.example_name(place.split, place.index) == place.name
        assert pair.bits <= 8
    one_split = find_duplicates(upstream, downstream, upstream_splits=["test"])
    assert one_split == [pair for pair in pairs if pair.upstream.split == "test"]
    with pytest.raises(ValueError, match="from 0 to 63. Received: 64"):
        find_duplicates(upstream, downstream, 64)


def test_run_leaves_pictures_a_list_and_a_manifest(tmp_path):
    options = two_sets(tmp_path)
    pairs = run(options)
    out = pathlib.Path(options.output)
    assert {path.name for path in out.iterdir()} == {"pairs.png", "exclude.txt", "manifest.json"}
    assert images.imread(out / "pairs.png").shape[1] > 500
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["excluded"] == len(manifest["pairs"]) == len(pairs) == 2
    assert manifest["upstream"]["splits"] == load_source(options.upstream).splits
    assert "2 near-duplicate pairs: 2 examples of folder:" in summary(options, pairs)


def test_sets_without_duplicates_give_an_empty_list(tmp_path):
    options = two_sets(tmp_path)
    for seed in (3, 11):
        (tmp_path / "down" / "apple" / f"{seed}.png").unlink()
    assert run(options) == []
    path = pathlib.Path(options.output) / "exclude.txt"
    assert read_exclusions(path, load_source(options.upstream)) == {}


def test_the_exclusion_list_gives_the_indices_back(tmp_path):
    options = two_sets(tmp_path)
    pairs = run(options)
    path = pathlib.Path(options.output) / "exclude.txt"
    upstream = load_source(options.upstream)
    found = read_exclusions(path, upstream)
    assert {(split, i) for split, indices in found.items() for i in indices} == {
        (pair.upstream.split, pair.upstream.index) for pair in pairs
    }


def test_the_exclusion_list_of_another_state_of_the_data_is_refused(tmp_path):
    options = two_sets(tmp_path)
    run(options)
    path = pathlib.Path(options.output) / "exclude.txt"
    with pytest.raises(ValueError, match="not an exclusion list of folder:.*Received: upstream"):
        read_exclusions(path, load_source(options.downstream))
    for i in range(9):
        drawing(i).save(tmp_path / "up" / "cat" / f"new{i}.png")
    with pytest.raises(ValueError, match="as it is now"):
        read_exclusions(path, load_source(options.upstream))
    with pytest.raises(FileNotFoundError, match="no exclusion list"):
        read_exclusions(tmp_path / "none.txt", load_source(options.upstream))


def test_a_distance_out_of_range_is_a_usage_error():
    with pytest.raises(ValueError, match="from 0 to 63, received 64"):
        DedupOptions("a", "b", "c", distance=64)
