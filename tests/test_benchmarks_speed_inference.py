import numpy as np
import pytest

from benchmarks.speed import accuracy, inference, keras_inference, runtime_inference
from benchmarks.speed.accuracy import Accuracy
from benchmarks.speed.contest import Contestant, Measured, started
from benchmarks.speed.inference import Found, as_ceiling, differences, targets
from benchmarks.speed.inference_contestants import (
    OPENVINO_BF16,
    OURS,
    OURS_BF16,
    OURS_INT8,
    TIMM,
    TOLERANCES,
    Group,
)
from benchmarks.speed.inference_files import write_files
from benchmarks.speed.training import Size
from bit_keras import ResNetV2, load_npz
from bit_keras.sources import load_source

TINY = Size(26, 0.5, 5, 64, (2, 1), 1, 0.0)
FLOAT32 = Group("float32", TIMM, [])
INT8 = Group("int8", OURS, [], (OURS,))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_files(TINY, tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def images(files):
    return np.load(files.images)


@pytest.fixture(scope="module")
def expected(files, images):
    model = ResNetV2(26, 0.5, 5)
    load_npz(model, files.network["weights"])
    return np.array(model(2 * images - 1))


WAYS = {
    "module": lambda f: keras_inference.serving(f.module),
    "stock": lambda f: keras_inference.stock(**f.network),
    "openvino": lambda f: runtime_inference.openvino(f.openvino, "f32"),
    "onnxruntime": lambda f: runtime_inference.onnxruntime(f.onnx),
    "litert": lambda f: runtime_inference.litert(f.litert),
    "bfloat16": lambda f: keras_inference.serving(f.bfloat16),
    "litert int8": lambda f: runtime_inference.litert(f.litert_int8),
    "onnx int8": lambda f: runtime_inference.openvino(f.onnx_int8, "f32"),
}


@pytest.mark.long
@pytest.mark.parametrize("way", WAYS)
def test_every_file_holds_the_same_network(files, images, expected, way):
    answer = WAYS[way](files)
    exact = way in ("module", "stock", "openvino", "onnxruntime", "litert")
    convert = keras_inference.tf.constant if way in ("module", "stock", "bfloat16") else np.asarray
    for count in (2, 1):
        found = answer(convert(images[:count]))
        apart = np.abs(found - expected[:count]).max() / np.abs(expected).max()
        assert apart < (1e-4 if exact else TOLERANCES["int8" if "int8" in way else "bfloat16"])
        assert exact or apart > 1e-4  # else nothing was computed in fewer bits


@pytest.mark.long
def test_a_contestant_writes_its_answers_and_times_them(files, expected, tmp_path):
    settings = {"images": files.images, "kind": "serving", "module": files.module}
    with started([Contestant("ours", "benchmarks.speed.keras_inference", settings)]) as (process,):
        assert set(process.about["versions"]) == {"bit_keras", "keras", "tensorflow"}
        process.ask("answer", batch=2, out=str(tmp_path / "logits.npy"))
        found = np.load(tmp_path / "logits.npy")
        assert all(seconds > 0 for seconds in process.ask("run", batch=1, seconds=0.05))
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_a_wrong_answer_is_refused_before_anything_is_timed():
    expected = np.array([[1.0, -2.0]])
    assert differences(FLOAT32, {"x": expected + 1e-3}, expected)["x"] == pytest.approx(5e-4)
    with pytest.raises(RuntimeError, match=r"x does not answer as timm does.* 0\.001 is allowed"):
        differences(FLOAT32, {"x": expected + 1e-2}, expected)
    with pytest.raises(RuntimeError, match="does not answer"):
        differences(FLOAT32, {"x": expected * np.nan}, expected)
    with pytest.raises(RuntimeError, match=r"\(1, 3\), not \(1, 2\)"):
        differences(FLOAT32, {"x": np.zeros((1, 3))}, expected)


def test_float32_is_held_to_float32_beside_int8():
    expected = np.array([[1.0, -2.0]])
    assert differences(INT8, {OURS_INT8: expected + 0.1}, expected)
    with pytest.raises(RuntimeError, match=f"{OURS} does not answer"):
        differences(INT8, {OURS: expected + 0.1}, expected)


def found(precision, batch, ceiling=None, **seconds):
    measured = [Measured(name, [s, s]) for name, s in seconds.items()]
    return Found(Group(precision, TIMM, []), batch, measured, {}, ceiling)


def test_float32_is_compared_with_the_fastest_peer_and_the_ceiling():
    ceiling = Measured("matrix product", [0.7, 0.7])
    f = found("float32", 8, ceiling, timm=1.2, other=1.1, **{OURS: 1.0})
    peer, share = targets([f])
    assert "other" in peer.asked
    assert (peer.number, peer.found, peer.reached) == ("1", "1.10 (1.10–1.10)", False)
    assert (share.found, share.reached) == ("0.70 (0.70–0.70)", False)
    assert "11.4 images/s" in share.asked


def test_fewer_bits_are_compared_with_what_was_asked_for():
    half = Found(
        Group("bfloat16", OPENVINO_BF16, []),
        8,
        [Measured(OURS_BF16, [1.0]), Measured(OPENVINO_BF16, [1.2]), Measured(OURS, [0.1])],
        {},
        None,
    )
    eight = Found(INT8, 1, [Measured(OURS_INT8, [1.0]), Measured(OURS, [1.9])], {}, None)
    reached = [(t.number, t.found, t.reached) for t in targets([half, eight])]
    assert reached == [("2", "1.20 (1.20–1.20)", True), ("3", "1.90 (1.90–1.90)", False)]


def test_the_ceiling_is_the_time_of_as_many_operations():
    # At 169.2 GFLOP/s twenty images of 8.46 GFLOP take a second.
    seconds = 2 * inference.SIDE**3 / 169.2e9
    assert as_ceiling(Measured("", [seconds]), 20).typical == pytest.approx(1)


def test_any_label_of_an_image_counts():
    hot = np.array([[1, 1, 0], [0, 0, 1]], np.float32)
    logits = np.array([[1.0, 2.0, 0.0], [3.0, 1.0, 2.0]])
    assert accuracy.top1(logits, hot) == 0.5
    assert accuracy.agreement(logits, -logits) == 0.0


@pytest.mark.parametrize(
    ("int8", "bf16", "reached"), [(0.715, 0.991, [True, True]), (0.70, 0.98, [False, False])]
)
def test_what_fewer_bits_may_cost(int8, bf16, reached):
    top1 = {"float32": 0.72, "bfloat16": 0.72, "int8": int8}
    agreement = {"float32": 1.0, "bfloat16": bf16, "int8": 0.9}
    result = Accuracy("BiT-XS", 500, 1000, top1, agreement)
    assert [target.reached for target in result.targets()] == reached
    assert result.table().rows[2][1] == f"{100 * int8:.2f}"


def test_held_out_images_come_with_their_classes():
    source = load_source(accuracy.DOWNSTREAM)
    images, hot = accuracy.held_out(source, "test")
    assert images.shape == (173, 64, 64, 3)
    assert 0 <= images.min() < 0.1 < 0.9 < images.max() <= 1
    np.testing.assert_array_equal(hot.argmax(1), source.labels("test"))
    assert (hot.sum(1) == 1).all()


@pytest.mark.long
def test_without_the_data_it_was_trained_on_it_is_fine_tuned(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    chosen = accuracy.subject(tmp_path, steps=1)
    assert "fine-tuned for 1 steps" in chosen.about
    assert (chosen.data, chosen.split) == ("embedded:openclipart-mini", "test")
    load_npz(ResNetV2(26, 0.5, chosen.classes), chosen.weights)
    (tmp_path / "clipart").mkdir()
    again = accuracy.subject(tmp_path, steps=1)
    assert (again.data, again.split, again.classes) == ("tfds:clipart", "validation", 136)
