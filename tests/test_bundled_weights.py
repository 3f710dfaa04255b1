"""The weights that come with the package: whole, documented, and worth something."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bit_keras import ResNetV2
from bit_keras.presets import PRESETS
from bit_keras.pretrained import BUNDLED, find_weights
from bit_keras.resnet import HEAD
from bit_keras.sources import ASSETS

NAME = "BiT-XS-R26x0.5"
STEP = 3
FILES = {p.name: p for p in BUNDLED.iterdir()}


def test_every_bundled_preset_has_file_card_and_class_names():
    for preset in PRESETS.values():
        names = {f"{preset.name}{ending}" for ending in (".npz", ".md", ".txt")}
        assert (names <= set(FILES)) == preset.bundled
    assert len(FILES) == 3 * sum(preset.bundled for preset in PRESETS.values())


def test_file_is_small_and_the_one_on_the_card():
    data = FILES[f"{NAME}.npz"].read_bytes()
    assert len(data) <= 9_000_000
    assert hashlib.sha256(data).hexdigest() in FILES[f"{NAME}.md"].read_text("utf-8")


def test_weights_are_found_without_a_network_and_can_be_replaced(tmp_path, monkeypatch):
    assert find_weights(f"{NAME}.npz") == FILES[f"{NAME}.npz"]
    own = tmp_path / f"{NAME}.npz"
    own.write_bytes(b"")
    monkeypatch.setenv("BIT_KERAS_WEIGHTS", str(tmp_path))
    assert find_weights(f"{NAME}.npz") == own


def test_upstream_head_has_a_name_for_every_class(capsys):
    names = FILES[f"{NAME}.txt"].read_text("utf-8").splitlines()
    model = ResNetV2.from_preset(NAME, num_classes=len(names))
    assert "new" not in capsys.readouterr().err
    assert len(set(names)) == PRESETS[NAME].num_classes == len(names)
    assert np.abs(np.array(model.get_layer(HEAD).kernel)).max() > 0.01


def features(model, split):
    """Features [N, 1024] and classes [N] of every third embedded image, at 64 × 64."""
    folder = Path(ASSETS) / "openclipart-mini" / split
    files = sorted(folder.glob("*/*.png"))[::STEP]
    classes = sorted({file.parent.name for file in files})
    images = [np.array(Image.open(f).convert("RGB").resize((64, 64))) / 127.5 - 1 for f in files]
    labels = np.array([classes.index(file.parent.name) for file in files])
    return model.predict(np.stack(images).astype(np.float32), verbose=0), labels


def probe_accuracy(model):
    """Of a ridge classifier on frozen features."""
    (x, y), (x_test, y_test) = features(model, "train"), features(model, "test")
    mean, scale = x.mean(0), x.std(0) + 1e-3
    x, x_test = (x - mean) / scale, (x_test - mean) / scale
    weights = x.T @ np.linalg.solve(x @ x.T + 300 * np.eye(len(x)), np.eye(8)[y] - 1 / 8)
    return float(((x_test @ weights).argmax(1) == y_test).mean())


def test_features_tell_more_about_unseen_drawings_than_random_ones():
    pretrained = probe_accuracy(ResNetV2.from_preset(NAME))
    untrained = probe_accuracy(ResNetV2.from_preset(NAME, weights=None))
    assert pretrained > untrained + 0.25
    assert pretrained == pytest.approx(0.74, abs=0.1)
