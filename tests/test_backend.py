import os
import subprocess
import sys

import pytest

import bit_keras
from bit_keras import backend


def python(code, **environment):
    """Runs code in a fresh Python, without the settings that this one made for itself."""
    dropped = ("TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS", "KERAS_BACKEND", "KERAS_HOME")
    env = {k: v for k, v in os.environ.items() if k not in dropped} | environment
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)


def test_tensorflow_starts_without_a_word():
    done = python("import bit_keras; bit_keras.ResNetV2; import tensorflow as tf; tf.constant(1)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_tensorflow_speaks_when_asked_to():
    done = python("import bit_keras; bit_keras.ResNetV2", BIT_KERAS_VERBOSE="1")
    assert done.returncode == 0
    assert "tensorflow" in done.stderr.lower()


def test_another_backend_in_the_environment_is_an_error_at_import():
    done = python("import bit_keras", KERAS_BACKEND="jax")
    assert done.returncode
    assert "ImportError: bit_keras runs on Keras' TensorFlow backend" in done.stderr
    assert "'jax'" in done.stderr
    assert "Set KERAS_BACKEND=tensorflow" in done.stderr


def test_another_backend_in_the_settings_file_is_an_error_at_import(tmp_path):
    (tmp_path / "keras.json").write_text('{"backend": "torch"}')
    done = python("import bit_keras", KERAS_HOME=str(tmp_path))
    assert done.returncode
    assert "the backend is 'torch'" in done.stderr
    assert "keras.json" in done.stderr


@pytest.mark.parametrize("settings", ["{}", "[]", "broken", '{"backend": "tensorflow"}', None])
def test_other_settings_files_are_fine(tmp_path, monkeypatch, settings):
    if settings is not None:
        (tmp_path / "keras.json").write_text(settings)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert backend._backend_of_settings() == "tensorflow"


def test_tensorflow_as_the_backend_is_accepted(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    backend.check_backend()


def test_running_backend_counts_more_than_the_environment(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")  # Keras runs on TensorFlow here already
    backend.check_backend()


def test_log_level_of_the_user_stays(monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "1")
    backend.quiet_tensorflow()
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "1"


@pytest.mark.parametrize(("verbose", "level"), [(None, "3"), ("", "3"), ("0", "3"), ("1", None)])
def test_log_level_is_quiet_unless_verbose(monkeypatch, verbose, level):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    if verbose is None:
        monkeypatch.delenv("BIT_KERAS_VERBOSE", raising=False)
    else:
        monkeypatch.setenv("BIT_KERAS_VERBOSE", verbose)
    backend.quiet_tensorflow()
    found = os.environ.get("TF_CPP_MIN_LOG_LEVEL")
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")  # for monkeypatch to restore
    assert found == level


def test_stderr_is_held_back_while_muted(capfd):
    with backend._muted_stderr():
        os.write(2, b"chatter")
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"


def test_held_back_stderr_comes_out_on_failure(capfd):
    with pytest.raises(RuntimeError), backend._muted_stderr():
        os.write(2, b"the reason")
        raise RuntimeError
    assert capfd.readouterr().err == "the reason"


def test_every_public_name_resolves():
    assert {"ResNetV2", "hyperrule", "load_npz", "__version__"} <= set(bit_keras.__all__)
    assert set(bit_keras.__all__) <= set(dir(bit_keras))


def test_unknown_name_lists_those_there_are():
    with pytest.raises(AttributeError, match=r"'ResNet'\. It has: .*ResNetV2"):
        bit_keras.ResNet  # noqa: B018


@pytest.mark.parametrize("imports", ["import bit_keras, keras", "import keras, bit_keras"])
def test_keras_files_load_after_the_import_alone(tmp_path, imports):
    path = tmp_path / "model.keras"
    bit_keras.ResNetV2(26, 0.25, num_classes=2).save(path)
    code = f"{imports}; print(keras.saving.load_model({str(path)!r}).count_params())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) > 100_000
