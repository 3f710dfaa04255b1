import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from toy import CLASSES, fast, write_npz

from bit_keras import ResNetV2, load_npz
from bit_keras.data import eval_batches
from bit_keras.options import FinetuneOptions
from bit_keras.runs import RunFolder, RunFolderError
from bit_keras.sources import load_source
from bit_keras.task import open_task, typical_size
from bit_keras.transfer import finetune


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_npz(tmp_path_factory.mktemp("data") / "toy.npz")


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    options = FinetuneOptions(
        data=data, output=str(tmp_path_factory.mktemp("runs") / "toy"), **fast(steps=40)
    )
    return options, finetune(options), RunFolder(options.output)


def test_finetuning_learns(finished):
    _, evaluation, _ = finished
    assert evaluation.examples == 21
    assert evaluation.top1 >= 0.6


def test_the_run_folder_is_complete(finished):
    _, evaluation, run = finished
    names = {path.name for path in run.path.iterdir() if path.name != ".lock"}
    assert names == {
        "checkpoints", "config.json", "confusion.png", "evaluation.json", "learning_curve.png",
        "metrics.jsonl", "model.keras", "model.npz", "module", "serving", "tensorboard",
    }  # fmt: skip
    record = json.loads(run.evaluation.read_text())
    assert record["top1"] == evaluation.top1
    assert record["skipped_files"] == 0
    assert sum(map(sum, record["confusion"])) == 21
    config = run.read_config()
    assert config["rule"]["steps"] == 40
    assert config["class_names"] == CLASSES
    steps = [record["step"] for record in run.read_metrics() if "loss" in record]
    assert steps == list(range(1, 41))


def test_weights_keras_file_and_modules_are_one_model(finished, data):
    _, _, run = finished
    batch = next(iter(eval_batches(load_source(data), "test", batch_size=4, size=32)))["image"]
    saved = keras.saving.load_model(run.keras)
    expected = saved(batch).numpy()
    assert np.abs(expected).max() > 0.01

    from_npz = ResNetV2(26, 0.5, num_classes=3)
    load_npz(from_npz, run.npz)
    np.testing.assert_array_equal(from_npz(batch), expected)

    unit = (batch + 1) / 2
    module = tf.saved_model.load(str(run.module))
    np.testing.assert_allclose(module(unit), expected, atol=1e-5)
    serving = tf.saved_model.load(str(run.serving)).signatures["serving_default"]
    np.testing.assert_allclose(serving(images=unit)["logits"], expected, atol=1e-5)


def test_a_finished_run_is_refused_and_resuming_it_changes_nothing(finished):
    options, evaluation, run = finished
    with pytest.raises(RunFolderError, match="--resume"):
        finetune(options)
    before = run.npz.read_bytes()
    again = finetune(replace(options, resume=True, export=True))
    assert again.top1 == evaluation.top1
    assert run.npz.read_bytes() == before


def test_the_rule_follows_from_the_data(data):
    rule = open_task(FinetuneOptions(data=data, output="unused")).rule
    assert (rule.resize, rule.crop, rule.steps, rule.batch_size) == (160, 128, 500, 512)
    rule = open_task(FinetuneOptions(data=data, output="unused", batch_size=64)).rule
    assert (rule.steps, rule.learning_rate) == (4000, 0.003 / 8)


def test_options_override_the_rule(data):
    options = FinetuneOptions(
        data=data, output="unused", steps=50, crop=100, learning_rate=0.1, mixup_alpha=0.2
    )
    rule = open_task(options).rule
    assert (rule.steps, rule.warmup_steps, rule.boundaries) == (50, 10, (15, 30, 45))
    assert (rule.crop, rule.resize, rule.learning_rate, rule.mixup_alpha) == (100, 160, 0.1, 0.2)
    assert "Set by hand: crop 100, learning_rate 0.1, mixup_alpha 0.2" in rule.derivation


def test_mixup_of_zero_is_none(data):
    assert open_task(FinetuneOptions(data=data, output="o", mixup_alpha=0)).rule.mixup_alpha is None


def test_a_crop_beyond_the_image_is_an_error(data):
    with pytest.raises(ValueError, match=r"crop of 200 .* 160"):
        open_task(FinetuneOptions(data=data, output="unused", crop=200))


def test_the_typical_size_is_that_of_all_classes(tmp_path):
    from PIL import Image

    for name, side, count in (("a", 20, 40), ("b", 120, 90)):
        folder = tmp_path / "train" / name
        folder.mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (side, side)).save(folder / f"{i}.png")
    source = load_source(f"folder:{tmp_path}")
    assert typical_size(source, "train") == (120, 120)


def test_class_names_that_no_module_can_carry_are_refused_at_once(tmp_path):
    np.savez(tmp_path / "x.npz", images=np.zeros((8, 4, 4, 3), np.uint8), labels=np.arange(8) % 2,
             class_names=np.array(["good", "two\nlines"]))  # fmt: skip
    with pytest.raises(ValueError, match="not one line"):
        open_task(FinetuneOptions(data=f"npz:{tmp_path / 'x.npz'}", output="unused"))


def test_an_unknown_split_lists_the_splits(data):
    with pytest.raises(ValueError, match=r"no split 'dev'; it has .*train.*--eval_split"):
        open_task(FinetuneOptions(data=data, output="unused", eval_split="dev"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a number from 1 on"),
        ({"learning_rate": -1.0}, "learning_rate must be a number from 0 on"),
        ({"resume": True, "overwrite": True}, "exclude each other"),
    ],
)
def test_impossible_options_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        FinetuneOptions(data="npz:x", output="y", **changes)


def test_an_unwritable_place_leaves_no_run(data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        finetune(FinetuneOptions(data=data, output=str(tmp_path / "file" / "run"), **fast()))


def command(data, output, *more):
    flags = {**fast(steps=60, batch_size=6), "data": data, "output": output, "checkpoint_every": 15}
    del flags["progress"]
    words = [f"--{name}={value}" for name, value in flags.items()]
    return [sys.executable, "-m", "bit_keras.cli", "finetune", *words, "--noprogress",
            "--noexport", *more]  # fmt: skip


def steps_done(folder):
    path = folder / "metrics.jsonl"
    return len(re.findall('"loss"', path.read_text())) if path.exists() else 0


def start_and_signal(arguments, folder, steps, number):
    """Starts a run, signals it once it has done some steps, and returns its exit status."""
    with subprocess.Popen(arguments, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 240
        while steps_done(folder) < steps and process.poll() is None:
            assert time.monotonic() < deadline, "the run does not get on"
            time.sleep(0.05)
        os.kill(process.pid, number)
        process.communicate()
    return process.returncode


@pytest.mark.long
def test_a_killed_run_goes_on_and_ends_with_the_same_weights(data, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(data, whole), check=True)
    assert start_and_signal(command(data, killed), killed, 20, signal.SIGKILL) == -9
    again = command(data, killed, "--resume")
    assert start_and_signal(again, killed, 40, signal.SIGTERM) == 128 + signal.SIGTERM
    subprocess.run(again, check=True)
    assert (whole / "model.npz").read_bytes() == (killed / "model.npz").read_bytes()
    assert steps_done(killed) == 60
    losses = [
        [json.loads(line).get("loss") for line in (folder / "metrics.jsonl").open()]
        for folder in (whole, killed)
    ]
    assert losses[0] == losses[1]
