"""The files that an export leaves for TensorFlow Serving."""

import json
import shutil

import numpy as np
import pytest

pytest.importorskip("tensorflow_serving")

import tensorflow as tf
from google.protobuf import text_format
from serving_toy import SIZE, direct, write_module
from tensorflow_serving.apis import prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2

from bit_keras.serving.configs import (
    BATCHING,
    MODELS,
    BatchingParameters,
    ModelConfig,
    default_name,
    read_batching,
    read_model,
    write_configs,
)
from bit_keras.serving.warmup import FILE, read_warmup


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files") / "flowers" / "serving"
    write_module(folder / "1")
    return folder


def test_an_export_to_a_version_folder_is_all_that_tensorflow_serving_needs(base):
    assert {path.name for path in base.iterdir()} == {"1", MODELS, BATCHING}
    parsed = text_format.Parse(
        (base / MODELS).read_text(), model_server_config_pb2.ModelServerConfig()
    )
    (config,) = parsed.model_config_list.config
    assert (config.name, config.base_path) == ("flowers", "/models/flowers")
    assert config.model_platform == "tensorflow"
    assert config.model_version_policy.latest.num_versions == 1
    assert read_model(base) == ModelConfig("flowers")
    assert read_batching(base / BATCHING) == BatchingParameters()


def test_warm_up_requests_run_both_signatures(base):
    records = list(tf.data.TFRecordDataset(str(base / "1" / FILE)).as_numpy_iterator())
    logs = [prediction_log_pb2.PredictionLog.FromString(record) for record in records]
    assert sum(map(len, records)) < 20_000
    run = direct(base / "1")
    found = {}
    for log in logs:
        request = log.predict_log.request
        ((_, tensor),) = request.inputs.items()
        value = tf.make_ndarray(tensor)
        outputs = run(request.model_spec.signature_name, value)
        assert all(np.isfinite(output).all() for output in outputs.values())
        found[request.model_spec.signature_name] = value.shape
        assert request.model_spec.name == "flowers"
    assert found == {"serving_default": (1, SIZE, SIZE, 3), "serving_bytes": (2,)}
    assert json.loads((base / "1" / "bit_keras.json").read_text())["warmup_requests"] == 2
    assert len(list(read_warmup(base / "1"))) == 2
    assert list(read_warmup(base)) == []


def test_settings_that_were_edited_survive_the_next_export(base, tmp_path):
    copied = tmp_path / "flowers"
    shutil.copytree(base, copied)
    (copied / BATCHING).write_text("max_batch_size { value: 7 }\n")
    (copied / MODELS).unlink()
    write_configs(copied)
    assert read_batching(copied / BATCHING).max_batch_size == 7
    assert read_model(copied).name == "flowers"


def test_an_export_elsewhere_replaces_a_module_and_leaves_nothing_beside_it(base, tmp_path):
    shutil.copytree(base / "1", tmp_path / "module")
    (tmp_path / "module" / FILE).write_bytes(b"old")
    write_module(tmp_path / "module")
    assert [path.name for path in tmp_path.iterdir()] == ["module"]
    assert len(list(read_warmup(tmp_path / "module"))) == 2


def test_names_that_need_quoting(tmp_path):
    base = tmp_path / 'über "das" \\ Meer'
    base.mkdir()
    write_configs(base)
    assert read_model(base).name == base.name == default_name(base)


def test_batching_files_of_tensorflow_serving(tmp_path):
    path = tmp_path / BATCHING
    path.write_text(
        """
        max_batch_size { value: 128 }  # the largest
        batch_timeout_micros: { value: 0 }
        max_enqueued_batches { value: 1000000 }
        num_batch_threads { value: 8 }
        thread_pool_name { value: "pool" }
        allowed_batch_sizes: [1, 8, 128]
        pad_variable_length_inputs: true
        """
    )
    assert read_batching(path) == BatchingParameters(128, 0, 8, 1_000_000)
    assert read_batching(tmp_path / "none") == BatchingParameters()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_batch_size { value: 0 }", "max_batch_size must be a whole number above 0"),
        ("num_batch_threads { value: -3 }", "received -3"),
        ("num_batch_threads { value: many }", "received many"),
        ("} nonsense", "has '}' where"),
    ],
)
def test_batching_files_that_are_wrong(tmp_path, text, message):
    (tmp_path / BATCHING).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_batching(tmp_path / BATCHING)


def test_models_config_files_that_are_wrong(tmp_path):
    (tmp_path / MODELS).write_text("model_config_list { confg { } }")
    with pytest.raises(ValueError, match="is not a ModelServerConfig"):
        read_model(tmp_path)
    (tmp_path / MODELS).write_text(
        'model_config_list { config { name: "a" } config { name: "b" } }'
    )
    with pytest.raises(ValueError, match="lists a, b. Choose one with --name"):
        read_model(tmp_path)
    assert read_model(tmp_path, "b").name == "b"
