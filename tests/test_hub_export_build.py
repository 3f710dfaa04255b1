import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tensorflow as tf

pytest.importorskip("starlette")

from hub_modules import CLASSIFIER, FEATURES, SERVING, built_hub

from bit_keras.presets import PRESETS
from bit_keras.pretrained import BUNDLED
from bit_keras.unpack import unpack
from hub_export import build as building
from hub_export.archive import checksum_holds, unpacked_equals, write_archive
from hub_export.build import BuildError, build, main
from hub_export.card import render
from hub_export.catalog import FIGURES, UPSTREAM, available, catalog
from hub_export.shelf import Place, read_manifest

ONLY = "bit/xs-r26x0.5/1"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    return built_hub(tmp_path_factory)


def card(hub, handle):
    return Place.of(hub, handle).card.read_text()


def test_layout_is_that_of_the_handles(hub):
    for handle in (FEATURES, CLASSIFIER, SERVING):
        assert (hub / handle / "saved_model.pb").is_file()
        assert (hub / f"{handle}.tar.gz").is_file()
        line = (hub / f"{handle}.tar.gz.sha256").read_text()
        archive = (hub / f"{handle}.tar.gz").read_bytes()
        assert line == f"{hashlib.sha256(archive).hexdigest()}  1.tar.gz\n"
    assert (hub / f"{FEATURES}.md").is_file()
    settings = sorted(path.name for path in (hub / SERVING).parent.glob("*.config"))
    assert settings == ["batching.config", "models.config"]
    assert not list(hub.glob(".building-*"))


def test_manifest_lists_what_was_built(hub):
    manifest = json.loads((hub / "manifest.json").read_text())
    assert [module["handle"] for module in manifest["modules"]] == [FEATURES, CLASSIFIER]
    features, classifier = manifest["modules"]
    assert features["serving"] is None
    assert classifier["serving"] == SERVING
    assert classifier["num_classes"] == 136
    weights = (BUNDLED / "BiT-XS-R26x0.5.npz").read_bytes()
    assert features["weights"]["sha256"] == hashlib.sha256(weights).hexdigest()


@pytest.mark.parametrize("handle", [FEATURES, CLASSIFIER])
def test_card_states_what_the_module_is(hub, handle):
    module = tf.saved_model.load(str(hub / handle))
    text = card(hub, handle)
    count = sum(int(tf.size(variable)) for variable in module.variables)
    assert f"| parameters | {count:,} |" in text
    outputs = module(tf.zeros([1, 33, 47, 3]), training=False)
    assert f"| output | float32 [B, {outputs.shape[-1]}]" in text
    assert "<!-- fine-tunable: true -->" in text
    assert "<!-- format: saved_model_2 -->" in text
    assert "0.61 GMACs, 1.23 GFLOPs" in text


def test_card_of_the_classifier_has_the_figures_of_the_weights_card(hub):
    text, source = card(hub, CLASSIFIER), (BUNDLED / "BiT-XS-R26x0.5.md").read_text()
    for figure in ("72.3 %", "84.2 %", "65.0 %"):
        assert figure in text
        assert figure in source


def test_figures_of_the_features_are_those_of_the_transfer_page():
    page = (Path(__file__).parents[1] / "docs/transfer.md").read_text()
    figures = FIGURES[FEATURES]
    for target, three in (("openclipart-mini", figures[:3]), ("Stamps, 5-fold", figures[3:])):
        row = next(line for line in page.splitlines() if line.startswith(f"| {target} |"))
        tuned, probed, scratch = (figure.value.split()[0] for figure in three)
        medians = [cell.split()[0] for cell in row.split("|")[5:8]]
        assert medians == [probed, tuned, scratch]


def test_class_names_are_in_classifier_and_serving_module(hub):
    names = (BUNDLED / "BiT-XS-R26x0.5.txt").read_text()
    for handle in (CLASSIFIER, SERVING):
        assert (hub / handle / "assets/labels.txt").read_text() == names


def test_every_file_of_the_zoo_has_its_modules_with_a_card():
    specs = catalog()
    files = {preset.name for preset in PRESETS.values() if preset.filename}
    assert {spec.preset.name for spec in specs} == files
    handles = [spec.handle for spec in specs]
    assert len(set(handles)) == len(handles)
    for handle in ("bit/m-r50x1/1", "bit/m-r152x4/ilsvrc2012_classification/1",
                   "bit/m-r101x3/imagenet21k_classification/1", "bit/s-r50x3/1"):  # fmt: skip
        assert handle in handles
    for spec in specs:
        text = render(spec, "0" * 64, labelled=False)
        assert text.startswith(f"# Module {spec.handle}\n")
        assert "None" not in text.replace("(None, None, 3)", "")
        assert spec.figures or "No figure is stated" in text


def test_weights_make_the_modules_of_their_name(tmp_path):
    (tmp_path / "BiT-M-R50x1.npz").touch()
    (tmp_path / "BiT-M-R50x1-ILSVRC2012.npz").touch()
    (tmp_path / "ilsvrc2012_wordnet_lemmas.txt").touch()
    found = {spec.handle: spec for spec, _ in available(tmp_path)}
    assert set(found) == {
        "bit/m-r50x1/1", "bit/m-r50x1/imagenet21k_classification/1",
        "bit/m-r50x1/ilsvrc2012_classification/1", FEATURES, CLASSIFIER,
    }  # fmt: skip
    tuned = found["bit/m-r50x1/ilsvrc2012_classification/1"]
    assert tuned.labels(tmp_path) == tmp_path / "ilsvrc2012_wordnet_lemmas.txt"
    assert found["bit/m-r50x1/imagenet21k_classification/1"].labels(tmp_path) is None
    assert UPSTREAM["M"].multi_label
    assert not UPSTREAM["M-ILSVRC2012"].multi_label


def test_archives_depend_on_contents_and_names_only(hub, tmp_path):
    write_archive(hub / FEATURES, tmp_path / "again.tar.gz")
    assert (tmp_path / "again.tar.gz").read_bytes() == (hub / f"{FEATURES}.tar.gz").read_bytes()
    (tmp_path / "copy").mkdir()
    unpack(hub / f"{FEATURES}.tar.gz", tmp_path / "copy")
    for path in (tmp_path / "copy").rglob("*"):
        os.utime(path, (1e9, 1e9))
        path.chmod(0o700)
    write_archive(tmp_path / "copy", tmp_path / "copy.tar.gz")
    assert (tmp_path / "copy.tar.gz").read_bytes() == (tmp_path / "again.tar.gz").read_bytes()


def test_a_folder_that_differs_from_its_archive_is_noticed(hub, tmp_path):
    folder, archive = tmp_path / "1", hub / f"{FEATURES}.tar.gz"
    folder.mkdir()
    unpack(archive, folder)
    assert unpacked_equals(archive, folder)
    (folder / "more").touch()
    assert not unpacked_equals(archive, folder)
    (folder / "more").unlink()
    with (folder / "variables/variables.index").open("r+b") as file:
        file.write(b"x")
    assert not unpacked_equals(archive, folder)


def test_a_complete_module_is_left_as_it_is(hub, tmp_path, capsys):
    before = {
        path: path.stat().st_mtime_ns for path in hub.rglob("*") if "saved_model" in str(path)
    }
    manifest = (hub / "manifest.json").read_bytes()
    assert main(["--weights", str(tmp_path), "--out", str(hub)]) == 0
    assert f"{CLASSIFIER}: complete, checksums hold" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert (hub / "manifest.json").read_bytes() == manifest


def test_killed_build_leaves_nothing_and_the_next_is_the_same_to_the_byte(hub, tmp_path):
    out, weights = tmp_path / "out", tmp_path / "weights"
    weights.mkdir()
    run = subprocess.Popen(
        [sys.executable, "-m", "hub_export.build", "--weights", weights, "--out", out,
         "--only", ONLY],
        cwd=Path(__file__).parents[1], env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(out.glob(".building-*/bit/*/.1.*")):  # the export has begun
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not (out / "bit").exists()
    assert read_manifest(out) == {}

    assert build(weights, out, ONLY, say=lambda text: None) == [FEATURES]
    assert not list(out.glob(".building-*"))
    assert card(out, FEATURES) == card(hub, FEATURES)
    assert read_manifest(out) == {FEATURES: read_manifest(hub)[FEATURES]}
    data = "variables/variables.data-00000-of-00001"
    one, other = (tf.train.load_checkpoint(str(x / FEATURES / "variables/variables"))
                  for x in (hub, out))  # fmt: skip
    assert (out / FEATURES / data).stat().st_size == (hub / FEATURES / data).stat().st_size
    for name in one.get_variable_to_shape_map():
        if "OBJECT_GRAPH" not in name:
            assert (one.get_tensor(name) == other.get_tensor(name)).all()


def test_failed_module_is_not_half_there_and_others_stay(tmp_path, monkeypatch):
    import bit_keras

    def fail(*args, **kwargs):
        raise OSError("disk gone")

    monkeypatch.setattr(bit_keras, "export_module", fail, raising=False)
    with pytest.raises(OSError, match="disk gone"):
        build(tmp_path, tmp_path / "out", ONLY)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]


def test_a_damaged_archive_is_not_complete(hub, tmp_path):
    archive = tmp_path / "1.tar.gz"
    content = bytearray((hub / f"{FEATURES}.tar.gz").read_bytes())
    content[1000] ^= 1
    archive.write_bytes(content)
    (tmp_path / "1.tar.gz.sha256").write_text((hub / f"{FEATURES}.tar.gz.sha256").read_text())
    assert not checksum_holds(archive, tmp_path / "1.tar.gz.sha256")
    assert not Place(tmp_path / "1").whole()


def test_two_builds_at_once_are_refused(tmp_path):
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BuildError, match="Another build is at work"):
            build(tmp_path, tmp_path, ONLY)


def test_command_says_what_is_wrong(tmp_path, capsys):
    assert main(["--weights", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 1
    assert "must be a folder with files such as BiT-M-R50x1.npz" in capsys.readouterr().err
    assert main(["--weights", str(tmp_path), "--out", str(tmp_path), "--only", "m-r50x1"]) == 1
    assert "'m-r50x1'" in capsys.readouterr().err
    (tmp_path / "manifest.json").write_text("{}")
    assert main(["--weights", str(tmp_path), "--out", str(tmp_path), "--only", "xx"]) == 1


def test_tables_import_no_tensorflow():
    code = "import sys, hub_export.catalog, hub_export.card, hub_export.build; " \
           "sys.exit('tensorflow' in sys.modules)"  # fmt: skip
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1]).returncode == 0
    )
    assert building.__doc__
