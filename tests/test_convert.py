"""Files for other runtimes compute what the model computes, or are not written."""

import json
import sys

import numpy as np
import pytest
import tensorflow as tf

from bit_keras import ResNetV2, cli, load_npz
from bit_keras.convert import convert, real_images
from bit_keras.convert_options import ConvertOptions
from bit_keras.preprocess import to_model_range
from bit_keras.runtimes import RUNTIMES
from bit_keras.runtimes.npz import Npz
from bit_keras.sources import load_source
from bit_keras.verify import ExportError

NAME, CLASSES, SIZE = "BiT-XS-R26x0.5", 136, 32
ENDINGS = {"onnx": ".onnx", "openvino": ".xml", "tflite": ".tflite", "npz": ".npz"}


@pytest.fixture(scope="module")
def model():
    return ResNetV2.from_preset(NAME, CLASSES)


@pytest.fixture(scope="module")
def images():
    return real_images(load_source("embedded:openclipart-mini"), "test", SIZE, 6)


def logits(model, images):
    return np.array(model(to_model_range(tf.constant(images)), training=False))


def options(path, to, **changes):
    settings = {"num_classes": CLASSES, "multi_label": True, "image_size": SIZE, **changes}
    return ConvertOptions(model=NAME, to=to, output=str(path), **settings)


def run_onnx(path, images):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["logits", "probabilities"], {"images": images})


def run_openvino(path, images):
    import openvino

    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    found = openvino.Core().compile_model(path, "CPU", exact)({"images": images})
    return found["logits"], found["probabilities"]


def run_tflite(path, images):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    runner = interpreter.get_signature_runner("serving_default")
    rows = [runner(images=image[None]) for image in images]
    return [np.concatenate([r[name] for r in rows]) for name in ("logits", "probabilities")]


@pytest.mark.parametrize(
    ("to", "run"), [("onnx", run_onnx), ("openvino", run_openvino), ("tflite", run_tflite)]
)
def test_a_runtime_gives_the_models_answers(tmp_path, model, images, to, run):
    found = convert(options(tmp_path / f"m{ENDINGS[to]}", to))
    expected = logits(model, images)
    got, probabilities = run(found.path, images)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-expected)), rtol=1e-3, atol=1e-5)
    assert found.agreement == 1
    assert set(found.differences) == {"features", "logits", "probabilities"}
    assert np.ptp(expected) > 1  # there was something to compare
    names = {path.name for path in tmp_path.iterdir()}
    expected_names = {f"m{ENDINGS[to]}", f"m{ENDINGS[to]}.json"}
    assert names == expected_names | ({"m.bin"} if to == "openvino" else set())


def test_onnx_and_openvino_take_any_size_and_number(tmp_path, model):
    image = np.random.default_rng(0).random((3, 40, 57, 3), np.float32)
    expected = logits(model, image)
    for to, run in (("onnx", run_onnx), ("openvino", run_openvino)):
        found = convert(options(tmp_path / f"m{ENDINGS[to]}", to))
        np.testing.assert_allclose(run(found.path, image)[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", ["int8", "int8_dynamic"])
def test_int8_is_a_quarter_of_the_size_and_still_agrees(tmp_path, model, images, precision):
    changes = {"precision": precision, "calibration_images": 32}
    found = convert(options(tmp_path / "m.tflite", "tflite", **changes))
    parameters = model.count_params()
    assert parameters < found.path.stat().st_size < 1.4 * parameters  # bytes
    got, _ = run_tflite(found.path, images)
    expected = logits(model, images)
    assert 0 < np.abs(got - expected).max() < 0.25 * np.abs(expected).max()


def test_npz_loads_in_a_new_model(tmp_path, model, images):
    path = convert(options(tmp_path / "m.npz", "npz")).path
    again = ResNetV2(26, 0.5, CLASSES)
    load_npz(again, path)
    np.testing.assert_array_equal(logits(again, images), logits(model, images))


def test_the_card_says_what_the_file_wants(tmp_path):
    convert(options(tmp_path / "m.npz", "npz"))
    card = json.loads((tmp_path / "m.npz.json").read_text())
    assert card["input"] == {
        "images": "float32 [B, H, W, 3], RGB", "range": [0.0, 1.0], "image_size": SIZE,
    }  # fmt: skip
    assert (card["num_classes"], card["multi_label"]) == (CLASSES, True)
    assert card["compared"]["same_best_class"] == 1.0


def test_a_file_that_answers_otherwise_gets_no_name(tmp_path, monkeypatch):
    def wrong(self, conversion, path):
        conversion.model.get_layer("group_norm").beta.assign_add([0.01] * 1024)
        Npz.write(self, conversion, path)
        conversion.model.get_layer("group_norm").beta.assign_sub([0.01] * 1024)

    monkeypatch.setitem(RUNTIMES, "npz", type("Wrong", (Npz,), {"write": wrong}))
    (tmp_path / "m.npz").write_bytes(b"before")
    with pytest.raises(ExportError, match="differs from the model"):
        convert(options(tmp_path / "m.npz", "npz"))
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("m.npz", b"before")]


def test_missing_packages_are_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'bit-keras\[convert\]'"):
        convert(options(tmp_path / "m.onnx", "onnx"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--model=x", "--output=y.onnx"], 2, "--to is required"),
        (["--model=x", "--to=caffe", "--output=y"], 2, "onnx|openvino|tflite|npz"),
        (["--model=x", "--to=onnx", "--output=y", "--precision=int8"], 2, "int8 is for tflite"),
        (["--model=x", "--to=onnx", "--output=y.pb"], 1, "must end in .onnx"),
        (["--model=BiT-X", "--to=onnx", "--output=y.onnx"], 1, "neither a run folder nor"),
    ],
)
def test_wrong_command_lines_say_the_fix(arguments, status, message, capsys):
    assert cli.run(["convert", *arguments]) == status
    assert message in capsys.readouterr().err
