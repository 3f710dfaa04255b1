import copy

import numpy as np
import pytest

from benchmarks.speed import input as part
from benchmarks.speed import input_turns
from benchmarks.speed.contest import Contestant, Measured, started
from benchmarks.speed.input_turns import described
from benchmarks.speed.photographs import write_folder

SAMPLE = {
    "shape": [224, 224, 3],
    "dtype": "float32",
    "least": -1.0,
    "most": 1.0,
    "mean": 0.0,
    "deviation": 0.35,
    "detail": 0.05,
    "labels": [30, 34, 33, 31],
}


def test_its_files_are_photographs_in_class_folders(tmp_path):
    size = write_folder(tmp_path, 4, 2)
    assert 50_000 < size < 250_000  # bytes; ILSVRC-2012's files have 110 kB on average
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.jpg"))
    assert found == [f"class_{i}/{n:05}.jpg" for i, n in ((0, 0), (0, 2), (1, 1), (1, 3))]
    assert len({path.read_bytes() for path in tmp_path.rglob("*.jpg")}) == 4


def test_ours_delivers_images_and_says_how_fast(tmp_path):
    write_folder(tmp_path / "train", 4, 2)
    settings = {"source": f"folder:{tmp_path}", "batch": 2, "size": 32, "classes": 2}
    contestant = Contestant("ours", "benchmarks.speed.input_worker", settings)
    with started([contestant]) as (process,):
        found = process.ask("sample", batches=2)
        (seconds,) = process.ask("rate", warmup=0.0, seconds=0.0)
    assert (found["shape"], found["dtype"], found["labels"]) == ([32, 32, 3], "float32", [2, 2])
    assert -1 <= found["least"] < -0.5
    assert 0.5 < found["most"] <= 1
    assert seconds > 0


def test_images_are_described_by_what_random_crops_have_in_common():
    images = np.zeros((2, 2, 4, 3), np.float32)
    images[0, :, ::2], images[1] = 1, -1
    found = described(images, np.array([2, 0]), 4)
    assert found["labels"] == [1, 0, 1, 0]
    assert (found["least"], found["most"], found["mean"]) == (-1, 1, -0.25)
    assert found["detail"] == 0.5  # 1 in the first image, 0 in the second
    assert found["deviation"] == pytest.approx(np.sqrt(0.75 - 0.25**2))


@pytest.mark.parametrize(
    "other",
    [
        {"shape": [3, 224, 224]},
        {"dtype": "float64"},
        {"least": 0.0},
        {"most": 255.0},
        {"mean": 0.2},
        {"mean": float("nan")},
        {"deviation": 0.2},
        {"labels": [128, 0, 0, 0]},  # sorted by class
    ],
)
def test_other_images_are_refused(other):
    with pytest.raises(RuntimeError, match="bit_keras, folder does not deliver"):
        part.check(part.OURS, {**SAMPLE, **other}, SAMPLE)


def test_alike_images_are_accepted_with_their_distance():
    near = {**copy.deepcopy(SAMPLE), "mean": 0.02, "detail": 0.07}
    assert part.check(part.OURS, near, SAMPLE) == "mean 0.02, deviation 0.00"


def test_each_of_our_sources_is_held_to_the_loader():
    seconds = {part.OURS: 0.004, part.SHARDS: 0.001, part.LOADER: 0.003}
    measured = [Measured(name, [s, 2 * s]) for name, s in seconds.items()]
    folder, shards = part.targets(measured)
    assert (folder.found, folder.reached) == ("0.75 × (0.75–0.75)", False)
    assert (shards.found, shards.reached) == ("3.00 × (3.00–3.00)", True)


def test_a_rate_counts_whole_batches_after_the_warm_up(monkeypatch):
    now, tasks = [0.0], {}
    monkeypatch.setattr(input_turns.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(input_turns, "serve", lambda served, **about: tasks.update(served))

    def begin():  # what was read ahead comes at once, and then a batch a second
        for number in range(100):
            now[0] += number >= 3
            yield number

    input_turns.serve_batches(begin, lambda batch: batch, batch=4, classes=2)
    assert tasks["rate"](warmup=1.5, seconds=4.5) == [0.25]
