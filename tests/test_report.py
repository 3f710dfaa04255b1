import numpy as np
import pytest
from PIL import Image

from bit_keras.report import plot_confusion, plot_learning_curve
from bit_keras.runs import RunFolder


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def records(steps):
    return [{"step": s, "loss": 2.0 / s, "learning_rate": 0.003 / s} for s in range(1, steps + 1)]


def test_learning_curve_shows_loss_and_accuracy(tmp_path):
    run = RunFolder(tmp_path)
    run.append_metrics(records(100))
    without = pixels(plot_learning_curve(run))
    run.append_metrics([{"step": 50, "top1": 0.4, "top5": 0.9}, {"step": 100, "top1": 0.7}])
    with_scores = pixels(plot_learning_curve(run, "a title"))
    blue = np.abs(without - (0x25, 0x63, 0xEB)).sum(-1) < 60
    orange = np.array((0xD9, 0x48, 0x0F))
    assert blue.sum() > 500
    assert not (np.abs(without - orange).sum(-1) < 60).any()
    assert (np.abs(with_scores - orange).sum(-1) < 60).sum() > 500


def test_learning_curve_without_records_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no record of a step"):
        plot_learning_curve(RunFolder(tmp_path))


def test_names_are_not_read_as_formulas(tmp_path):
    run = RunFolder(tmp_path)
    run.append_metrics(records(3))
    plot_learning_curve(run, r"folder:a$\frac$")
    names = [r"a$\frac$", "b_{", "^"]
    assert plot_confusion(np.eye(3, dtype=int), names, tmp_path / "c.png", "$^$").is_file()


@pytest.mark.parametrize("classes", [2, 12, 60])
def test_confusion_matrix_is_darkest_on_a_perfect_diagonal(tmp_path, classes):
    path = plot_confusion(
        5 * np.eye(classes, dtype=int), [f"class {i}" for i in range(classes)], tmp_path / "c.png"
    )
    image = pixels(path)
    dark = np.abs(image - (8, 48, 107)).sum(-1) < 30
    assert dark.any()
    assert max(image.shape) < 3000
