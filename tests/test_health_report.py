import json
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from health_records import pretraining, settings
from PIL import Image

from bit_keras import cli
from bit_keras.health_picture import thinned
from bit_keras.health_report import write_report
from bit_keras.runs import RunFolder, RunFolderError

BLUE, ORANGE = (0x25, 0x63, 0xEB), (0xD9, 0x48, 0x0F)


def pixels(path, color):
    with Image.open(path) as image:
        return int(
            (np.abs(np.asarray(image.convert("RGB")).astype(int) - color).sum(-1) < 60).sum()
        )


def records(recipe, steps, seed=0):
    """A pre-training as it goes: power law, drops of the rate, norms that come to rest."""
    random = np.random.default_rng(seed)
    noise = random.normal(size=(3, steps))
    rates = np.broadcast_to(recipe.learning_rate_at(np.arange(steps)), steps)
    done = np.arange(1, steps + 1)
    loss = (
        9 * (1 + done / 40) ** -0.22 - 0.5 * (rates < recipe.learning_rate * 0.5) + 0.2 * noise[0]
    )
    norm = 95 - 20 * np.exp(-done / 1_200)
    for step in range(steps):
        yield {
            "step": step + 1,
            "loss": float(loss[step]),
            "learning_rate": float(rates[step]),
            "images_per_second": float(4_000 + 60 * noise[1, step]),
            "weight_norm": float(norm[step]),
            "gradient_norm": float(2 * np.exp(0.2 * noise[2, step])),
            "effective_learning_rate": float(rates[step] / norm[step] ** 2),
            "loss_short": 0.0,
            "loss_long": 0.0,
        }
        if (step + 1) % max(1, recipe.steps // 30) == 0:
            score = 0.75 - 0.5 * (1 + step / 200) ** -0.5 + 0.005 * noise[1, step]
            yield {"step": step + 1, "top1": score, "top5": score + 0.15}


@pytest.fixture
def recipe():
    from bit_keras.upstream import pretrain_recipe

    return pretrain_recipe("BiT-S").override(num_examples=150_000, warmup_steps=200)


@pytest.fixture
def run(tmp_path, recipe):
    """A pre-training of 3,296 steps, stopped in the middle of its second learning rate."""
    folder = RunFolder(tmp_path / "run")
    config = pretraining(examples=150_000) | {"recipe": settings(recipe)}
    with folder.claim(config, resume=False, overwrite=False):
        pass
    folder.append_metrics(records(recipe, 2_000))
    return folder


def test_a_report_has_the_picture_the_findings_and_the_settings(run):
    report = write_report(run)
    text = report.document.read_text("utf-8")
    assert (report.document, report.picture) == (run.path / "report.md", run.path / "health.png")
    assert "(health.png)" in text
    assert all(finding.text in text for finding in report.findings)
    assert "| warm-up steps | 200 | 5,000 |" in text
    assert "| 0.48 | 201–1,099 |" in text
    assert "| last | 1,962 |" in text
    assert "step 2,000 of 3,296" in text
    assert "finished" not in text


def test_the_picture_shows_loss_evaluations_and_norms(run):
    report = write_report(run)
    whole = pixels(report.picture, BLUE), pixels(report.picture, ORANGE)
    assert min(whole) > 500
    kept = [{k: r[k] for k in ("step", "loss", "learning_rate")} for r in _steps(run)]
    run.metrics.unlink()
    run.append_metrics(kept)
    write_report(run)
    assert pixels(report.picture, BLUE) < 0.8 * whole[0]
    assert pixels(report.picture, ORANGE) < 0.7 * whole[1]  # the trend of the loss is orange too


def _steps(run):
    return [record for record in run.read_metrics() if "loss" in record]


def test_the_report_of_a_fine_tuning_has_no_norms(tmp_path):
    from dataclasses import asdict

    from bit_keras.recipes import hyperrule

    run = RunFolder(tmp_path)
    rule = asdict(hyperrule(1_000, 224, 224))
    options = {"model": "BiT-M-R50x1", "data": "folder:/home/me/photos"}
    run.write_json(run.config, {"options": options, "rule": rule, "num_examples": 1_000})
    run.append_metrics(
        {"step": s, "loss": 2 / s, "learning_rate": 0.003, "images_per_second": 9.0}
        for s in range(1, 501)
    )
    report = write_report(run)
    assert report.heading == "BiT-M-R50x1 on folder:…/photos"
    text = report.document.read_text("utf-8")
    assert "fine-tuning, step 500 of 500, finished" in text.lower()
    assert "‖w‖" not in text


def test_a_run_is_reported_while_a_line_is_being_written(run):
    before = write_report(run).document.read_text("utf-8")
    with run.metrics.open("a") as stream:
        stream.write('{"step": 2001, "lo')
    assert write_report(run).document.read_text("utf-8") == before


def test_damaged_lines_are_told(run):
    with run.metrics.open("a") as stream:
        stream.write("\x00\x00\x00\n")
    assert "1 damaged lines" in write_report(run).document.read_text("utf-8")


@pytest.mark.parametrize("steps", [1, 2, 30, 201])
def test_a_run_that_has_just_begun_is_reported(run, recipe, steps):
    run.metrics.unlink()
    run.append_metrics(records(recipe, steps))
    report = write_report(run)
    assert "Too early" in report.findings[0].text
    assert report.picture.is_file()


def test_numbers_that_are_missing_now_and_then_do_no_harm(run):
    kept = [
        {k: v for k, v in r.items() if r["step"] % 7 or k not in ("gradient_norm", "weight_norm")}
        for r in _steps(run)
    ]
    run.metrics.unlink()
    run.append_metrics(kept)
    report = write_report(run)
    assert "nan" not in report.document.read_text("utf-8")
    assert "weight norm" in {finding.kind for finding in report.findings}


def test_a_resumed_run_is_reported_as_one(run, recipe):
    whole = write_report(run).document.read_text("utf-8")
    run.append_metrics(r for r in records(recipe, 2_000) if r["step"] > 1_900)
    assert write_report(run).document.read_text("utf-8") == whole


def test_the_report_may_go_elsewhere(run, tmp_path):
    report = write_report(run, tmp_path / "elsewhere")
    assert {p.name for p in (tmp_path / "elsewhere").iterdir()} == {"report.md", "health.png"}
    assert not (run.path / "report.md").exists()
    assert report.document.parent == tmp_path / "elsewhere"


def test_no_run_and_no_metrics_are_told(tmp_path):
    with pytest.raises(RunFolderError, match="not a run folder"):
        write_report(RunFolder(tmp_path / "nothing"))
    assert not (tmp_path / "nothing").exists()
    run = RunFolder(tmp_path)
    run.write_json(run.config, {})
    for content in (None, "", '{"step": 1, "lo'):
        if content is not None:
            run.metrics.write_text(content)
        with pytest.raises(ValueError, match="no record of a step"):
            write_report(run)


def test_a_config_that_says_little_is_enough(run):
    run.write_json(run.config, {"seed": 0})
    report = write_report(run)
    assert report.heading == "run"
    assert "training, step 2,000" in report.status


def test_thinning_keeps_ends_and_extremes():
    y = np.zeros(100_000)
    y[77_777] = 5
    x, mean, low, high = thinned(np.arange(100_000.0), y, 1_000)
    assert len(x) == len(mean) == 1_000
    assert (low.min(), high.max(), mean.max()) == (0, 5, 0.05)


def test_the_command_prints_the_findings_and_needs_no_tensorflow(run):
    code = (
        "import sys; from bit_keras import cli; status = cli.run(sys.argv[1:]);"
        "assert status == 0 and not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, "report", str(run.path)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert re.search(r"^[✓·!] Patience\. ", told, re.MULTILINE)
    assert f"Picture: {run.path / 'health.png'}" in told
    assert max(map(len, told.splitlines()[:-2])) <= 100


def test_the_command_fails_in_one_line_on_a_folder_that_is_no_run(tmp_path, capsys):
    assert cli.run(["report", str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert cli.run(["report"]) == 2


@pytest.mark.long
def test_a_million_steps_are_reported_in_ten_seconds(run):
    rate = json.dumps(0.03)
    with run.metrics.open("w") as stream:
        for step in range(1, 1_000_001):
            stream.write(
                f'{{"step": {step}, "loss": {2 + step % 97 / 97}, "gradient_norm": 2.0, '
                f'"weight_norm": 90.0, "effective_learning_rate": 3.7e-06, "loss_short": 2.5, '
                f'"loss_long": 2.5, "learning_rate": {rate}, "images_per_second": 4000.0}}\n'
            )
    started = time.process_time()
    write_report(run)
    assert time.process_time() - started < 10
