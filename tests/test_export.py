import errno
import json
from collections import Counter

import keras
import numpy as np
import pytest
import tensorflow as tf

from bit_keras import export, modules, verify
from bit_keras.export import METADATA, ExportError, export_module
from bit_keras.layers import GroupNormalization, StandardizedConv2D
from bit_keras.preprocess import decode_bytes, eval_view
from bit_keras.resnet import ResNetV2

hub = pytest.importorskip("tensorflow_hub")
tf_keras = pytest.importorskip("tf_keras")

CLASSES = 5
LABELS = ["cat", "dog", "Käse", "a, b", "three words here"]
SIZE = 40


def randomized(*args, **kwargs):
    """A model in which no weight has a value that hides mistakes, such as a zero head."""
    keras.utils.set_random_seed(0)
    model = ResNetV2(*args, **kwargs)
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if "kernel" not in variable.name or "head" in variable.path:
            variable.assign(variable + 0.1 * rng.standard_normal(variable.shape))
    return model


@pytest.fixture(scope="module")
def model():
    return randomized(26, 0.5, num_classes=CLASSES)


@pytest.fixture(scope="module")
def small():
    return randomized(26, 0.25)


@pytest.fixture(scope="module")
def fine_tunable(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("modules") / "fine-tunable"
    return str(export_module(model, path, labels=LABELS))


@pytest.fixture(scope="module")
def serving_path(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("modules") / "serving" / "1"
    return export_module(model, path, kind="serving", labels=tuple(LABELS), image_size=SIZE)


@pytest.fixture(scope="module")
def serving(serving_path):
    return tf.saved_model.load(str(serving_path))


def images(*shape):
    return np.random.default_rng(1).random((*shape, 3), np.float32)


def expected_answers(model, in_model_range, probabilities=tf.nn.softmax):
    logits = model(in_model_range, training=False)
    features = keras.Model(model.input, model.get_layer("features").output)(in_model_range)
    return {"logits": logits, "probabilities": probabilities(logits), "features": features}


def assert_close(found, expected, tolerance=1e-5):
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name].dtype == tf.float32
        atol = tolerance * max(1.0, np.abs(expected[name]).max())
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=atol, err_msg=name)


def graph_operations(path):
    """Operations of a SavedModel by type: outside functions, and in the function `answer`."""
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    graph = saved.meta_graphs[0].graph_def
    answers = [f for f in graph.library.function if "_answer_" in f.signature.name]
    assert len(answers) == 1
    return Counter(n.op for n in graph.node), Counter(n.op for n in answers[0].node_def)


# -- fine-tunable


@pytest.mark.parametrize("trainable", [True, False])
def test_keras_layer_equals_the_model(model, fine_tunable, trainable):
    layer = hub.KerasLayer(fine_tunable, trainable=trainable)
    for shape in ((2, 64, 64), (3, 65, 33)):
        x = images(*shape)
        assert_close({"logits": layer(x)}, {"logits": model(x * 2 - 1)})


def test_keras_layer_trains_every_variable(model, fine_tunable):
    layer = hub.KerasLayer(fine_tunable, trainable=True)
    assert len(layer.trainable_variables) == len(model.trainable_variables)
    assert sorted(tuple(v.shape) for v in layer.trainable_variables) == sorted(
        tuple(v.shape) for v in model.trainable_variables
    )
    before = [v.numpy() for v in layer.trainable_variables]
    user_model = tf_keras.Sequential([tf_keras.layers.InputLayer((32, 48, 3)), layer])
    assert user_model.output_shape == (None, CLASSES)
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    user_model.compile(tf_keras.optimizers.SGD(0.1), loss, run_eagerly=True)
    user_model.fit(images(4, 32, 48), np.arange(4), batch_size=4, verbose=0)
    for old, variable in zip(before, layer.trainable_variables, strict=True):
        assert np.any(old != variable.numpy()), variable.name


def test_keras_layer_is_frozen_by_default(fine_tunable):
    layer = hub.KerasLayer(fine_tunable)
    assert layer.trainable_variables == []
    assert layer.losses == []


def test_members_of_a_reusable_saved_model(model, fine_tunable):
    module = tf.saved_model.load(fine_tunable)
    assert len(module.variables) == len(module.trainable_variables) == len(model.weights)
    assert list(module.regularization_losses) == []
    x = images(1, 32, 40)
    np.testing.assert_allclose(module(x), module(x, training=True))


def test_half_precision_features_of_a_frozen_model(tmp_path):
    model = randomized(26, 0.25, dtype="mixed_bfloat16")
    model.trainable = False
    path = export_module(model, tmp_path / "half")
    layer = hub.KerasLayer(str(path), trainable=True)
    assert len(layer.trainable_variables) == len(model.weights)
    x = images(2, 48, 32)
    assert_close({"features": layer(x)}, {"features": model(x * 2 - 1)}, tolerance=0.02)


# -- serving


@pytest.mark.parametrize("shape", [(2, 64, 64), (1, 33, 70)])
def test_serving_default_equals_the_model(model, serving, shape):
    x = images(*shape)
    found = serving.signatures["serving_default"](images=tf.constant(x))
    assert_close(found, expected_answers(model, x * 2 - 1))


def test_serving_bytes_preprocesses_as_evaluation_does(model, serving):
    pixels = tf.constant(images(50, 70) * 255, tf.uint8)
    files = [
        tf.io.encode_png(pixels),
        tf.io.encode_jpeg(pixels[:33], quality=90),
        tf.io.encode_png(pixels[:, :20, :1]),
    ]
    views = tf.stack([eval_view(decode_bytes(file), SIZE) for file in files])
    found = serving.signatures["serving_bytes"](image_bytes=tf.stack(files))
    assert_close(found, expected_answers(model, views))


def test_serving_bytes_refuses_what_is_no_image(serving):
    with pytest.raises(tf.errors.InvalidArgumentError, match="not a JPEG"):
        serving.signatures["serving_bytes"](tf.constant([b"%PDF"]))


def test_serving_graph_has_constants_and_no_standardization(model, serving_path):
    outside, answer = graph_operations(serving_path)
    assert outside["VarHandleOp"] <= 1  # TensorFlow adds a scalar where a module has none
    assert outside["Const"] >= len(model.weights) - 2  # short ones stand in the function itself
    assert not [op for op in answer if "Var" in op]
    assert answer["Conv2D"] == sum(isinstance(x, StandardizedConv2D) for x in model.layers)
    # One reciprocal square root for each normalisation of activations, none for kernels.
    assert answer["Rsqrt"] == sum(isinstance(x, GroupNormalization) for x in model.layers)
    # The weights are there once, although two signatures use them.
    size = (serving_path / "saved_model.pb").stat().st_size
    assert size < 4 * model.count_params() + 1e6


def test_multi_label_serving_with_weights_too_large_for_constants(tmp_path, monkeypatch):
    monkeypatch.setattr(modules, "CONSTANT_BYTES", 1000)
    model = randomized(26, 0.25, num_classes=3)
    path = tmp_path / "module"  # an earlier module, which is replaced
    (path / "variables").mkdir(parents=True)
    (path / "saved_model.pb").write_text("old")
    (path / "variables" / "variables.data-00009-of-00010").write_text("old")
    export_module(model, path, kind="serving", image_size=32, multi_label=True)

    outside, answer = graph_operations(path)
    assert outside["VarHandleOp"] == len(model.weights)
    assert answer["Rsqrt"] == sum(isinstance(x, GroupNormalization) for x in model.layers)
    assert not list(path.glob("variables/*-of-00010"))
    module = tf.saved_model.load(str(path))
    assert not any(v.trainable for v in module.frozen)
    x = images(2, 48, 32)
    found = module.signatures["serving_default"](tf.constant(x))
    assert_close(found, expected_answers(model, x * 2 - 1, tf.nn.sigmoid))


# -- labels and metadata


def test_labels_are_an_asset(fine_tunable, serving_path, serving):
    for folder, module in (
        (fine_tunable, tf.saved_model.load(fine_tunable)),
        (str(serving_path), serving),
    ):
        path = module.labels.asset_path.numpy().decode()
        assert path == f"{folder}/assets/labels.txt"
        with open(path, encoding="utf-8") as stream:
            assert stream.read().splitlines() == LABELS


def test_metadata(serving_path, fine_tunable):
    serving = json.loads((serving_path / METADATA).read_text())
    assert serving["kind"] == "serving"
    assert serving["architecture"] == "R26x0.5"
    assert (serving["num_classes"], serving["labels"], serving["features"]) == (5, 5, 1024)
    assert (serving["image_size"], serving["input_range"]) == (SIZE, [0.0, 1.0])
    with open(f"{fine_tunable}/{METADATA}") as stream:
        assert json.load(stream)["kind"] == "fine-tunable"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", "b"], "5 names.*Received: 2 names"),
        ("abcde", "5 names.*Received: 'abcde'"),
        (["a", "b", "c", "d", "e\nf"], r"line breaks.*Received: 'e\\nf'"),
        (["a", "b", "c", "d", ""], "Received: ''"),
        (["a", "b", "c", "d", 5], "Received: 5"),
    ],
)
def test_labels_that_do_not_fit(model, tmp_path, labels, message):
    with pytest.raises(ValueError, match=message):
        export_module(model, tmp_path / "module", labels=labels)
    assert list(tmp_path.iterdir()) == []


def test_labels_without_a_head(small, tmp_path):
    with pytest.raises(ValueError, match="without a head"):
        export_module(small, tmp_path / "module", labels=["a"])


# -- refusals and failures


def test_wrong_arguments(small, tmp_path):
    with pytest.raises(ValueError, match="'fine-tunable' or 'serving'. Received: 'tflite'"):
        export_module(small, tmp_path / "module", kind="tflite")
    with pytest.raises(ValueError, match="at least 1 pixel. Received: 0"):
        export_module(small, tmp_path / "module", image_size=0)
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(TypeError, match=r"must be a bit_keras\.ResNetV2\. Received: a Sequential"):
        export_module(other, tmp_path / "module")


@pytest.mark.parametrize("entries", [["thesis.tex"], ["saved_model.pb", "notes.md"]])
def test_unrelated_folder_is_not_replaced(small, tmp_path, entries):
    for entry in entries:
        (tmp_path / entry).write_text("mine")
    with pytest.raises(FileExistsError, match=f"holds {entries[-1]}.*{tmp_path}/module"):
        export_module(small, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(entries)
    with pytest.raises(FileExistsError, match="is a file"):
        export_module(small, tmp_path / entries[0])


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (KeyboardInterrupt("stop"), KeyboardInterrupt, "stop"),
        (OSError(errno.ENOSPC, "No space left on device"), OSError, "Free some space"),
        (
            tf.errors.ResourceExhaustedError(None, None, "variables; No space left on device"),
            OSError,
            "Free some space",
        ),
        (
            tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor"),
            tf.errors.ResourceExhaustedError,
            "OOM",
        ),
    ],
)
def test_interrupted_export_leaves_what_was_there(
    small, tmp_path, monkeypatch, error, raised, message
):
    def save(module, folder, **_):
        tf.io.gfile.makedirs(f"{folder}/variables")
        raise error

    monkeypatch.setattr(tf.saved_model, "save", save)
    monkeypatch.setattr(export, "fine_tunable", lambda model: None)
    module = tmp_path / "module"
    module.mkdir()
    (module / "saved_model.pb").write_text("before")
    with pytest.raises(raised, match=message):
        export_module(small, module)
    assert [path.name for path in tmp_path.iterdir()] == ["module"]
    assert [path.read_text() for path in module.iterdir()] == ["before"]


def test_module_that_differs_is_not_published(small, tmp_path, monkeypatch):
    def wrong(model):
        module = modules.Module()
        module.__call__ = tf.function(lambda x, training=False: tf.zeros([tf.shape(x)[0], 512]))
        for training in (True, False):
            module.__call__.get_concrete_function(
                tf.TensorSpec([None, None, None, 3], name="x"), training
            )
        return module

    monkeypatch.setattr(export, "fine_tunable", wrong)
    with pytest.raises(ExportError, match=r"^outputs for images \(2, 64.*differs .* by \d"):
        export_module(small, tmp_path / "module")
    assert list(tmp_path.iterdir()) == []


def check(expected, found, disturbed=lambda: {"logits": [1.0, 2.001]}):
    verify.check_equal("logits", "one image", expected, found, 1e-4, disturbed)


@pytest.mark.parametrize(
    ("expected", "found", "message"),
    [
        ([1.0, np.nan], [1.0, np.nan], "model's own logits for one image are not finite"),
        ([1.0, 2.0], [1.0, np.nan], "differs from the model by nan"),
        ([1.0, 2.0], [1.0, 2.1], "differs from the model by 0.1"),
        ([1.0, 2.0], [1.0], "shape"),
    ],
)
def test_what_counts_as_a_difference(expected, found, message):
    with pytest.raises(ExportError, match=message):
        check(expected, found)


def test_what_counts_as_rounding():
    check([1.0, 2.0], [1.0, 2.0001], disturbed=None)
    check([1.0, 2.0], [1.0, 2.002], disturbed=lambda: {"logits": [1.0, 2.001]})
