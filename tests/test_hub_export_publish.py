import shutil
from pathlib import Path

import pytest
import tensorflow as tf

pytest.importorskip("starlette")

from hub_modules import CLASSIFIER, FEATURES, SERVING, built_hub

from bit_keras.module_files import find_module
from hub_export.publish import main, plan
from hub_export.shelf import Place, read_manifest


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    return built_hub(tmp_path_factory)


def files_in(folder):
    folder = Path(folder)
    return {p.relative_to(folder).as_posix(): p.read_bytes()
            for p in folder.rglob("*") if p.is_file()}  # fmt: skip


def test_dry_run_says_everything_and_touches_nothing(hub, tmp_path, capsys):
    target = tmp_path / "published"
    assert main([str(hub), str(target)]) == 0
    said = capsys.readouterr().out
    assert not target.exists()
    assert "Nothing was uploaded" in said
    assert main([str(hub), str(target), "--upload"]) == 0
    for name, content in files_in(target).items():
        assert f"{len(content):>13,}  {name}\n" in said
    assert f"bytes in {len(files_in(target))} files" in said


def test_published_folder_is_a_collection_of_its_own(hub, tmp_path, monkeypatch):
    assert main([str(hub), str(tmp_path / "copy"), "--upload"]) == 0
    ours = {name: data for name, data in files_in(hub).items() if name != ".lock"}
    assert files_in(tmp_path / "copy") == ours
    monkeypatch.setenv("BIT_KERAS_HUB", str(tmp_path / "copy"))
    monkeypatch.setenv("BIT_KERAS_CACHE", str(tmp_path / "cache"))
    assert (find_module(FEATURES).folder / "saved_model.pb").is_file()
    assert read_manifest(tmp_path / "copy") == read_manifest(hub)
    assert Place.of(tmp_path / "copy", SERVING).whole()


def test_bucket_gets_the_same_files(hub):
    address = "ram://bucket/bit"  # a file system of TensorFlow's, as gs:// is
    assert main([str(hub), address, "--upload", "--only", "clipart_class"]) == 0
    for part in (CLASSIFIER, SERVING):
        with tf.io.gfile.GFile(f"{address}/{part}.tar.gz", "rb") as file:
            assert file.read() == (hub / f"{part}.tar.gz").read_bytes()
        assert tf.io.gfile.exists(f"{address}/{part}/saved_model.pb")
    assert not tf.io.gfile.exists(f"{address}/{FEATURES}.tar.gz")


def test_hugging_face_gets_a_repository_a_module(hub, monkeypatch, capsys):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    made, sent = [], {}
    monkeypatch.setattr(huggingface_hub, "create_repo", lambda name, **_: made.append(name))
    monkeypatch.setattr(
        huggingface_hub, "upload_folder",
        lambda repo_id, folder_path, **_: sent.update({repo_id: files_in(folder_path)}),
    )  # fmt: skip
    assert main([str(hub), "hf://me"]) == 0
    said = capsys.readouterr().out
    assert made == []
    assert main([str(hub), "hf://me", "--upload"]) == 0
    assert made == list(sent) == ["me/bit-xs-r26x0.5", "me/bit-xs-r26x0.5-clipart_classification"]
    for content in sent.values():
        for name, data in content.items():
            assert f"{len(data):>13,}  {name}\n" in said
        card = content["README.md"].decode()
        assert card.startswith("---\nlicense: apache-2.0\n")
        assert "\n---\n\n# Module bit/xs-r26x0.5/" in card
        assert "saved_model.pb" in content


def test_kaggle_gets_a_variation_a_module(hub, monkeypatch):
    kagglehub = pytest.importorskip("kagglehub")
    sent = {}
    monkeypatch.setattr(
        kagglehub, "model_upload",
        lambda handle, folder, licence, notes: sent.update({handle: (files_in(folder), licence)}),
    )  # fmt: skip
    assert main([str(hub), "kaggle://me", "--upload"]) == 0
    assert list(sent) == [
        "me/bit/tensorFlow2/xs-r26x05", "me/bit/tensorFlow2/xs-r26x05-clipart-classification",
    ]  # fmt: skip
    for content, licence in sent.values():
        assert licence == "Apache 2.0"
        assert {"saved_model.pb", "variables/variables.index", "README.md"} <= set(content)


def test_failing_upload_is_an_error(hub, monkeypatch, capsys):
    kagglehub = pytest.importorskip("kagglehub")

    def refuse(*args):
        raise RuntimeError("not logged in")

    monkeypatch.setattr(kagglehub, "model_upload", refuse)
    assert main([str(hub), "kaggle://me", "--upload"]) == 1
    captured = capsys.readouterr()
    assert "RuntimeError: not logged in" in captured.err
    assert "Published" not in captured.out


def test_damaged_or_missing_modules_are_not_published(hub, tmp_path, capsys):
    copy = tmp_path / "hub"
    shutil.copytree(hub, copy)
    with (copy / f"{FEATURES}.tar.gz").open("r+b") as file:
        file.seek(1000)
        file.write(b"xxxx")
    with pytest.raises(ValueError, match="is not what its checksum says"):
        plan(copy, str(tmp_path / "out"))
    for arguments, message in (
        ([str(tmp_path), "x"], "lists no module"),
        ([str(hub), "x", "--only", "m-r50x1"], "lists no module with 'm-r50x1'"),
        ([str(hub), "hf://"], "Write the target as hf://OWNER"),
        ([str(hub), "kaggle://a/b"], "Write the target as kaggle://OWNER"),
    ):
        assert main(arguments) == 1
        assert message in capsys.readouterr().err
