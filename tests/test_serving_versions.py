import gc
import shutil
import threading
import time
import weakref

import pytest

pytest.importorskip("tensorflow_serving")
pytest.importorskip("uvicorn")

from serving_toy import assert_close, call, direct, images, module, predict, serving

from bit_keras.serving.errors import NotFoundError
from bit_keras.serving.versions import AVAILABLE, END, Model, VersionStatus, find_models

X = images(0, 1, 8, 8)


@pytest.fixture(scope="module")
def modules():
    """Two modules that answer differently."""
    return [module(1), module(2)]


@pytest.fixture
def base(modules, tmp_path):
    """A model with version 1."""
    path = tmp_path / "photos"
    shutil.copytree(modules[0], path / "1")
    return path


def config(base, *, policy="", labels="", name="photos"):
    (base / "models.config").write_text(
        f'model_config_list {{ config {{ name: "{name}" base_path: "/models/{name}" '
        f"{policy} {labels} }} }}"
    )


def put(module, folder):
    """Makes a version appear at once, as an export does."""
    shutil.copytree(module, folder.with_name("arriving"))
    folder.with_name("arriving").rename(folder)


def test_a_new_version_takes_over_without_a_gap_and_the_old_one_goes(modules, base):
    expected = [direct(module)("serving_default", X) for module in modules]
    answers, stop = [], threading.Event()

    def ask(server):
        while not stop.is_set():
            answers.append(predict(server, {"inputs": X.tolist()}))

    with serving(base) as server:
        client = threading.Thread(target=ask, args=(server,))
        client.start()
        put(modules[1], base / "2")
        states = {}
        end = time.monotonic() + 60
        while states != {"2": "AVAILABLE", "1": "END"} and time.monotonic() < end:
            _, status = call(server, "/v1/models/photos")
            states = {s["version"]: s["state"] for s in status["model_version_status"]}
        seen = len(answers)
        while len(answers) < seen + 3:
            time.sleep(0.01)
        stop.set()
        client.join()
        assert states == {"2": "AVAILABLE", "1": "END"}
        assert list(states) == ["2", "1"]  # newest first
        status, answer = call(server, "/v1/models/photos/versions/1:predict", {"inputs": []})
        assert (status, answer["error"]) == (
            404,
            "Servable not found for request: Specific(photos, 1)",
        )
    assert {status for status, _ in answers} == {200}
    assert_close(answers[0][1]["outputs"], expected[0])
    for _, answer in answers[-2:]:
        assert_close(answer["outputs"], expected[1])


def test_an_unloaded_version_leaves_memory(modules, base):
    model = Model(base)
    model.poll()
    old = weakref.ref(model.resolve()[1])
    put(modules[1], base / "2")
    model.poll()
    assert model.available == [2]
    gc.collect()
    assert old() is None


def test_a_damaged_version_does_not_replace_a_good_one(modules, base, capsys):
    model = Model(base)
    model.poll()
    (base / "2").mkdir()
    (base / "2" / "saved_model.pb").write_bytes(b"damaged")
    shutil.copystat(modules[1] / "saved_model.pb", base / "2" / "saved_model.pb")
    model.poll()
    assert model.available == [1]
    assert model.statuses()[2].state == END
    assert model.statuses()[2].error
    assert "version 2 cannot be loaded" in capsys.readouterr().err
    model.poll()  # said once, not every second
    assert not capsys.readouterr().err
    shutil.copytree(modules[1], base / "2", dirs_exist_ok=True)  # the copy is complete only now
    model.poll()
    assert model.available == [2]
    assert model.statuses()[2] == VersionStatus(AVAILABLE)


def test_a_version_whose_warm_up_fails_is_not_served(base):
    import tensorflow as tf

    from bit_keras.serving.warmup import FILE

    with tf.io.TFRecordWriter(str(base / "1" / FILE)) as writer:
        writer.write(b"\xff not a PredictionLog")
    model = Model(base)
    model.poll()
    assert model.available == []
    assert "DecodeError" in model.statuses()[1].error


def test_a_disk_that_is_gone_for_a_moment_unloads_nothing(base, capsys):
    model = Model(base)
    model.poll()
    base.rename(base.with_name("away"))
    model.poll()
    assert model.available == [1]
    assert "cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("policy", "available"),
    [
        ("", [2]),
        ("model_version_policy { latest { num_versions: 2 } }", [1, 2]),
        ("model_version_policy { all { } }", [1, 2]),
        ("model_version_policy { specific { versions: 1 } }", [1]),
    ],
)
def test_version_policies(modules, base, policy, available):
    put(modules[1], base / "2")
    config(base, policy=policy)
    model = Model(base)
    model.poll()
    assert model.available == available


def test_labels_are_followed_when_they_move(modules, base):
    put(modules[1], base / "2")
    labels = 'version_labels {{ key: "stable" value: {} }}'
    everything = "model_version_policy { all { } }"
    config(base, policy=everything, labels=labels.format(1))
    model = Model(base)
    model.poll()
    assert model.resolve(label="stable")[0] == 1
    config(base, policy=everything, labels=labels.format(2))
    model.poll()
    assert model.resolve(label="stable")[0] == 2
    assert list(model.statuses(label="stable")) == [2]
    assert model.resolve()[0] == 2
    assert model.resolve(version=1)[0] == 1
    with pytest.raises(NotFoundError, match="label: canary"):
        model.resolve(label="canary")
    with pytest.raises(NotFoundError, match="version 5"):
        model.statuses(5)


def test_a_models_config_that_breaks_later_changes_nothing(base, capsys):
    config(base, labels='version_labels { key: "stable" value: 1 }')
    model = Model(base)
    model.poll()
    (base / "models.config").write_text("model_config_list {")
    model.poll()
    assert model.resolve(label="stable")[0] == 1
    assert "keeps its settings" in capsys.readouterr().err


def test_names_of_models(modules, tmp_path):
    for name in ("cats", "dogs"):
        put(modules[0], make(tmp_path / "zoo" / name) / "1")
    (tmp_path / "zoo" / "notes").mkdir()
    assert list(find_models(tmp_path / "zoo")) == ["cats", "dogs"]
    assert list(find_models(tmp_path / "zoo" / "cats", "lions")) == ["lions"]
    config(tmp_path / "zoo" / "dogs", name="wolves")
    assert list(find_models(tmp_path / "zoo")) == ["cats", "wolves"]
    with pytest.raises(ValueError, match="holds 2 models"):
        find_models(tmp_path / "zoo", "lions")
    config(tmp_path / "zoo" / "dogs", name="cats")
    with pytest.raises(ValueError, match="are both 'cats'"):
        find_models(tmp_path / "zoo")
    # a run folder has its versions in serving/
    put(modules[0], make(tmp_path / "runs" / "photos" / "serving") / "1")
    assert list(find_models(tmp_path / "runs" / "photos")) == ["photos"]
    with pytest.raises(FileNotFoundError, match="holds no versions"):
        find_models(tmp_path / "zoo" / "notes")
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        find_models(tmp_path / "nowhere")


def make(folder):
    folder.mkdir(parents=True)
    return folder
