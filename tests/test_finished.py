import json

import numpy as np
import pytest
from PIL import Image
from toy import CLASSES, fast, write_npz

from bit_keras import finished
from bit_keras.images import ImageError
from bit_keras.options import EvaluateOptions, ExportOptions, FinetuneOptions, PredictOptions
from bit_keras.runs import RunFolder, RunFolderError
from bit_keras.transfer import finetune


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("finished")
    data = write_npz(root / "toy.npz")
    options = FinetuneOptions(
        data=data, output=str(root / "run"), export=False, **fast(steps=30, batch_size=12)
    )
    finetune(options)
    with np.load(root / "toy.npz") as arrays:
        for i, image in enumerate(arrays["x_test"][:5]):
            Image.fromarray(image).save(root / f"{i}.png")
    (root / "sub").mkdir()
    Image.fromarray(arrays_image(root)).save(root / "sub" / "5.jpg", quality=95)
    return root


def arrays_image(root):
    with np.load(root / "toy.npz") as arrays:
        return arrays["x_test"][5]


def test_evaluation_of_a_run_repeats_its_numbers(run, tmp_path):
    before = json.loads((run / "run" / "evaluation.json").read_text())
    options = EvaluateOptions(
        run=str(run / "run"), output=str(tmp_path), batch_size=4, progress=False
    )
    evaluation = finished.evaluate_run(options)
    assert evaluation.confusion.tolist() == before["confusion"]
    assert (tmp_path / "confusion.png").is_file()
    text = finished.evaluation_text(evaluation)
    assert text.splitlines()[-1].split()[:2] == ["all", "21"]


def test_evaluation_on_other_classes_is_refused(run, tmp_path):
    np.savez(tmp_path / "other.npz", images=np.zeros((8, 8, 8, 3), np.uint8),
             labels=np.arange(8) % 2, class_names=np.array(["x", "y"]))  # fmt: skip
    options = EvaluateOptions(run=str(run / "run"), data=f"npz:{tmp_path / 'other.npz'}")
    with pytest.raises(ValueError, match=r"other classes.*dark.*x, y"):
        finished.evaluate_run(options)


def test_predictions_agree_with_the_evaluation(run):
    opened = finished.open_run(str(run / "run"))
    files = [run / f"{i}.png" for i in range(5)]
    found = dict(finished.classify(opened, files, top=2, batch_size=3))
    assert list(found) == files
    for best in found.values():
        assert len(best) == 2
        assert best[0][1] >= best[1][1] >= 0
        assert {name for name, _ in best} <= set(CLASSES)


def test_predict_prints_a_table_or_json_lines(run, capsys):
    options = {"run": str(run / "run"), "top": 1}
    count = finished.predict_files(
        PredictOptions(**options), [str(run / "0.png"), str(run / "sub")]
    )
    assert count == 2
    assert "5.jpg" in capsys.readouterr().out
    finished.predict_files(PredictOptions(format="jsonl", **options), [str(run / "0.png")])
    record = json.loads(capsys.readouterr().out)
    assert record["file"].endswith("0.png")
    assert record["predictions"][0]["class"] in CLASSES


def test_unreadable_files_are_skipped_and_named(run, tmp_path, capsys):
    (tmp_path / "broken.png").write_bytes((run / "0.png").read_bytes()[:60])
    (tmp_path / "empty.jpg").write_bytes(b"")
    Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
    options = PredictOptions(run=str(run / "run"))
    assert finished.predict_files(options, [str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert "2 files skipped" in told
    assert "broken.png" in told
    assert "empty.jpg" in told
    with pytest.raises(ImageError, match=r"broken\.png|empty\.jpg"):
        finished.predict_files(PredictOptions(run=str(run / "run"), strict=True), [str(tmp_path)])
    (tmp_path / "good.png").unlink()
    with pytest.raises(ImageError, match="None of the files"):
        finished.predict_files(options, [str(tmp_path)])


def test_missing_files_and_empty_folders_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        finished.image_files([str(tmp_path / "nothing.png")])
    with pytest.raises(FileNotFoundError, match="No images"):
        finished.image_files([str(tmp_path)])


def test_a_run_without_its_end_is_told(tmp_path):
    with RunFolder(tmp_path / "run").claim({}, resume=False, overwrite=False):
        pass
    with pytest.raises(RunFolderError, match="not finished"):
        finished.open_run(str(tmp_path / "run"))


def test_a_run_can_be_exported_later(run, tmp_path):
    path = finished.export(
        ExportOptions(model=str(run / "run"), output=str(tmp_path / "m"), kind="serving")
    )
    assert (path / "saved_model.pb").is_file()
    assert (path / "assets" / "labels.txt").read_text().splitlines() == CLASSES


def test_a_preset_can_be_exported_with_labels_of_a_file(tmp_path):
    (tmp_path / "names.txt").write_text("x\ny\n")
    options = ExportOptions(
        model="BiT-XS-R26x0.5", output=str(tmp_path / "m"), weights="none", num_classes=2,
        labels=str(tmp_path / "names.txt"),
    )  # fmt: skip
    path = finished.export(options)
    assert (path / "assets" / "labels.txt").read_text().splitlines() == ["x", "y"]
