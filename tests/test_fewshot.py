import json
from dataclasses import replace

import pytest
from toy import fast, write_npz

from bit_keras.fewshot import Shots, fewshot, summary
from bit_keras.options import FewshotOptions
from bit_keras.runs import RunFolderError


def test_summary_has_median_and_spread():
    text = summary([Shots(1, (0.1, 0.5, 0.2)), Shots(10, (0.9, 0.7))])
    assert text.splitlines()[2].split() == ["1", "20.0", "10.0", "50.0", "3"]
    assert text.splitlines()[3].split() == ["10", "80.0", "70.0", "90.0", "2"]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    root = tmp_path_factory.mktemp("few")
    data = write_npz(root / "toy.npz")
    options = FewshotOptions(
        data=data, output=str(root / "out"), shots=(2,), seeds=(0, 1), **fast(steps=6, batch_size=6)
    )
    return options, fewshot(options), root / "out"


def test_every_draw_is_trained_and_recorded(done):
    _, (result,), root = done
    assert result.shots == 2
    assert len(result.top1) == 2
    assert json.loads((root / "fewshot.json").read_text()) == {"2": list(result.top1)}
    for seed in (0, 1):
        folder = root / f"2-shot-seed-{seed}"
        assert json.loads((folder / "config.json").read_text())["num_examples"] == 6
        assert json.loads((folder / "evaluation.json").read_text())["examples"] == 21


def test_finished_draws_are_not_done_again(done, monkeypatch):
    options, results, _ = done
    with pytest.raises(RunFolderError, match="--resume"):
        fewshot(options)
    monkeypatch.setattr("bit_keras.fewshot.train_task", None)
    assert fewshot(replace(options, resume=True)) == results


def test_too_few_examples_name_the_classes(done, tmp_path):
    options, _, _ = done
    with pytest.raises(ValueError, match="dark"):
        fewshot(replace(options, shots=(1000,), output=str(tmp_path)))


def test_shots_must_be_positive():
    with pytest.raises(ValueError, match="shots"):
        FewshotOptions(data="npz:x", output="y", shots=(0,))


def test_unreadable_images_are_never_drawn(tmp_path):
    from PIL import Image

    from bit_keras.fewshot import _draw
    from bit_keras.sources import load_source

    for split in ("train", "test"):
        for name in ("a", "b"):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(5):
                Image.effect_noise((16, 16), 50).save(folder / f"{i}.png")
    broken = [tmp_path / "train" / "a" / f"{i}.png" for i in (0, 2, 3)]
    for path in broken:
        path.write_bytes(path.read_bytes()[:60])
    source = load_source(f"folder:{tmp_path}")
    for seed in range(4):
        drawn = _draw(2, seed, source, "train")
        assert sorted(source.labels("train")[drawn]) == [0, 0, 1, 1]
        assert len(list(source.examples("train", drawn))) == 4
    with pytest.raises(ValueError, match=r"a \(2\)"):
        _draw(3, 0, source, "train")
    assert len(source.skipped) == 3
