"""Pre-training from end to end, in seconds: what it resolves, writes, honours and refuses."""

import io
import json
import os
import signal

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from toy import MODEL, write_npz

from bit_keras import cli, finished, pretrain_recipe
from bit_keras import pretrain as module
from bit_keras.evaluate import MultiLabelEvaluation
from bit_keras.exclusions import exclusion_list
from bit_keras.options import EvaluateOptions, FinetuneOptions
from bit_keras.pretrain import make_model, open_upstream, pretrain
from bit_keras.pretrain_options import PretrainOptions
from bit_keras.resnet import HEAD
from bit_keras.runs import RunFolder, RunFolderError
from bit_keras.signals import Terminated
from bit_keras.sources import load_source
from bit_keras.transfer import finetune

SMALL = {"model": MODEL, "image_size": 32, "batch_size": 12, "warmup_steps": 2, "progress": False}


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    return write_npz(tmp_path_factory.mktemp("single") / "toy.npz")


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Record shards with the toy's classes and, as a second label, whether an image is even."""
    folder = tmp_path_factory.mktemp("several")
    write_npz(folder / "toy.npz")
    with np.load(folder / "toy.npz") as arrays:
        for split in ("train", "test"):
            images, labels = arrays[f"x_{split}"], arrays[f"y_{split}"]
            with tf.io.TFRecordWriter(str(folder / f"{split}-0.tfrecord")) as writer:
                for i, (image, label) in enumerate(zip(images, labels, strict=True)):
                    found = [int(label)] + [3] * (i % 2 == 0)
                    writer.write(record(image, found))
    return folder


def record(image, labels):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    values = {
        "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[buffer.getvalue()])),
        "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=labels)),
    }
    return tf.train.Example(features=tf.train.Features(feature=values)).SerializeToString()


def options(data, output="-", **changes):
    return PretrainOptions(data=data, output=str(output), **{**SMALL, **changes})


@pytest.fixture(scope="module")
def run(single, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    scores = pretrain(options(single, folder, epochs=6, base_learning_rate=0.4, loss="softmax"))
    return folder, scores


def test_the_recipe_is_the_model_names_with_steps_for_the_datas_size(single):
    recipe = open_upstream(options(single, batch_size=None, image_size=None)).recipe
    paper = pretrain_recipe("BiT-XS")
    assert recipe.steps == round(90 * 60 / 64)
    assert recipe.boundaries == tuple(round(e * 60 / 64) for e in (30, 60, 80))
    assert (recipe.num_examples, recipe.num_classes) == (60, 3)
    assert (recipe.learning_rate, recipe.image_size) == (paper.learning_rate, 64)


def test_every_field_of_the_recipe_has_a_flag(single):
    changed = options(
        single, epochs=9.0, batch_size=30, warmup_steps=3, base_learning_rate=0.5, momentum=0.8,
        weight_decay=1e-2, image_size=40,
    )  # fmt: skip
    recipe = open_upstream(changed).recipe
    assert (recipe.epochs, recipe.batch_size, recipe.warmup_steps) == (9, 30, 3)
    assert (recipe.base_learning_rate, recipe.momentum) == (0.5, 0.8)
    assert (recipe.weight_decay, recipe.image_size) == (1e-2, 40)
    assert recipe.decay_epochs == (3, 6, 8)  # in proportion
    assert open_upstream(options(single, decay_epochs=(1, 2))).recipe.decay_epochs == (1, 2)


@pytest.mark.parametrize(
    ("model", "family"),
    [("BiT-S-R50x1", "BiT-S"), ("BiT-M-R101x3", "BiT-M"), ("BiT-L-R152x4", "BiT-L"),
     ("BiT-M-R50x1-ILSVRC2012", "BiT-M"), (MODEL, "BiT-XS")],
)  # fmt: skip
def test_the_models_name_says_the_recipe(model, family):
    assert options("npz:x", model=model).family == family


def test_a_run_learns_and_leaves_everything(run):
    folder, scores = run
    assert scores["top1"] > 0.6
    assert set(scores) == {"top1", "top5"}
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    assert names == {
        "checkpoints", "config.json", "evaluation.json", "health.png", "metrics.jsonl",
        "model.keras", "model.npz", "report.md", "tensorboard",
    }  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    assert config["recipe"]["steps"] == 30
    assert config["recipe"]["learning_rate"] == pytest.approx(0.4 * 12 / 256)
    assert config["options"]["base_learning_rate"] == 0.4
    assert json.loads((folder / "evaluation.json").read_text())["top1"] == scores["top1"]


def test_every_step_is_recorded_with_what_the_report_needs(run):
    records = [r for r in RunFolder(run[0]).read_metrics() if "loss" in r]
    assert [r["step"] for r in records] == list(range(1, 31))
    for record in records:
        assert set(record) == {
            "step", "loss", "loss_short", "loss_long", "weight_norm", "gradient_norm",
            "learning_rate", "effective_learning_rate", "images_per_second",
        }  # fmt: skip
        ratio = record["learning_rate"] / record["weight_norm"] ** 2
        assert record["effective_learning_rate"] == pytest.approx(ratio)
    assert records[0]["loss"] == pytest.approx(np.log(3), rel=1e-4)  # a zero head knows nothing
    losses = [r["loss"] for r in records]
    assert records[-1]["loss_short"] == pytest.approx(np.mean(losses[-10:]), rel=1e-5)
    assert records[-1]["loss_long"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_a_finished_run_can_be_evaluated_and_transferred(run, single, tmp_path):
    folder, scores = run
    again = finished.evaluate_run(
        EvaluateOptions(run=str(folder), output=str(tmp_path / "e"), progress=False)
    )
    assert again.top1 == scores["top1"]
    tuned = finetune(
        FinetuneOptions(
            data=single, output=str(tmp_path / "tuned"), model=MODEL, batch_size=12, steps=2,
            weights=str(folder / "model.npz"), resize=32, crop=32, export=False, progress=False,
        )
    )  # fmt: skip
    assert tuned.top1 > 0.6  # the file's head fits these classes, so it was loaded


def test_a_terminated_run_goes_on_and_ends_the_same(single, tmp_path, monkeypatch):
    settings = {"epochs": 2, "loss": "softmax", "evaluate_every": 5}
    pretrain(options(single, tmp_path / "whole", **settings))

    def terminate(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        return {"top1": 0.0}

    with monkeypatch.context() as patch, pytest.raises(Terminated, match="143"):
        patch.setattr(module, "_scores", terminate)
        pretrain(options(single, tmp_path / "parts", **settings))
    parts = RunFolder(tmp_path / "parts")
    assert max(r["step"] for r in parts.read_metrics()) == 5
    pretrain(options(single, tmp_path / "parts", resume=True, **settings))
    with np.load(tmp_path / "whole/model.npz") as a, np.load(parts.npz) as b:
        for key in a.files:
            np.testing.assert_array_equal(a[key], b[key])
    runs = [RunFolder(tmp_path / name).read_metrics() for name in ("whole", "parts")]
    losses = [[(r["loss"], r["loss_long"]) for r in run if "loss" in r] for run in runs]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 10


def test_a_run_with_other_settings_is_not_resumed(run, single):
    with pytest.raises(RunFolderError, match="base_learning_rate: 0.4 then, 0.1 now"):
        pretrain(options(single, run[0], epochs=6, base_learning_rate=0.1, loss="softmax",
                         resume=True))  # fmt: skip


def test_excluded_examples_are_never_seen(single, tmp_path):
    source = load_source(single)
    listed = tmp_path / "exclude.txt"
    out = [("train", i, f"train[{i}]") for i in range(0, 60, 2)]
    listed.write_text(exclusion_list(out, source))
    upstream = open_upstream(options(single, exclude=str(listed)))
    assert upstream.indices.tolist() == list(range(1, 60, 2))
    assert upstream.recipe.num_examples == 30
    assert upstream.recipe.steps == round(90 * 30 / 12)


def test_several_labels_take_the_sigmoid_and_start_at_the_prior(several):
    source = f"tfrecord:{several}/train-0.tfrecord"
    upstream = open_upstream(options(source, eval_split="train"))
    assert upstream.recipe.multi_label
    bias = np.array(make_model(options(source), upstream).get_layer(HEAD).bias)
    np.testing.assert_allclose(1 / (1 + np.exp(-bias)), [1 / 3, 1 / 3, 1 / 3, 1 / 2], rtol=1e-4)
    with pytest.raises(ValueError, match="several labels, for which softmax is no loss"):
        open_upstream(options(source, eval_split="train", loss="softmax"))


def test_several_labels_are_learnt_and_measured(several, tmp_path):
    settings = options(
        f"tfrecord:{several}/train-0.tfrecord", tmp_path / "run", epochs=8, eval_split="train",
        base_learning_rate=0.4, flip=False,
    )  # fmt: skip
    scores = pretrain(settings)
    assert set(scores) == {"top1", "top5", "label_precision"}
    assert scores["top1"] > 0.6
    run = finished.open_run(str(tmp_path / "run"))
    assert run.multi_label
    again = finished.evaluate_run(EvaluateOptions(run=settings.output, progress=False))
    assert isinstance(again, MultiLabelEvaluation)
    assert again.label_precision == pytest.approx(scores["label_precision"], abs=1e-6)
    assert "of 60 images with several labels" in finished.evaluation_text(again)
    image = np.zeros((32, 32, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    ((_, best),) = finished.classify(run, [tmp_path / "a.png"], top=4)
    logits = np.array(run.model(np.full((1, 32, 32, 3), -1, np.float32)))[0]
    expected = np.sort(1 / (1 + np.exp(-logits)))[::-1]
    np.testing.assert_allclose([p for _, p in best], expected, rtol=1e-4)


def test_one_label_an_image_may_be_trained_with_the_sigmoid(single):
    assert open_upstream(options(single, loss="sigmoid")).recipe.multi_label
    assert not open_upstream(options(single)).recipe.multi_label


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "bn", "remat": True}, "moving averages twice"),
        ({"norm": "sync_bn", "microbatches": 2}, "take microbatches 1"),
        ({"resume": True, "overwrite": True}, "exclude each other"),
        ({"microbatches": 0}, "microbatches"),
        ({"model": "BiT-M-R50x9"}, "BiT-M-R50x1"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        options("npz:x", **changes)


def test_a_batch_that_cannot_be_cut_is_told_with_one_that_can(single, tmp_path):
    with pytest.raises(ValueError, match="a multiple of 5"):
        pretrain(options(single, tmp_path / "run", microbatches=5, epochs=1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data=npz:x"], "--output is required"),
        (["--data=npz:x", "--output=y", "--weight-decai=0"], "Did you mean: weight_decay"),
        (["--data=npz:x", "--output=y", "--norm=ln"], "norm"),
        (["--data=npz:x", "--output=y", "--decay-epochs=1,two"], "numbers with commas"),
        (["--data=npz:x", "--output=y", "--precision=int8"], "bfloat16"),
    ],
)
def test_usage_errors_exit_with_2(arguments, message, capsys):
    assert cli.run(["pretrain", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_help_names_every_choice(capsys):
    assert cli.run(["pretrain", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for words in ("gn, bn, sync_bn", "float32, bfloat16, float16", "multi_worker, tpu",
                  "--microbatches", "--[no]weight_standardization", "--[no]remat"):  # fmt: skip
        assert words in text
