import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bit_keras.export import export_module
from bit_keras.resnet import ResNetV2

pytest.importorskip("tensorflow_hub")
pytest.importorskip("tf_keras")

EXAMPLE = Path(__file__).parents[1] / "examples" / "hub_layer.py"


@pytest.fixture
def photos(tmp_path):
    """Ten images of two classes, red and blue."""
    rng = np.random.default_rng(0)
    for channel, name in ((0, "red"), (2, "blue")):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for i in range(5):
            pixels = rng.integers(0, 60, (36, 44, 3), np.uint8)
            pixels[..., channel] += 190
            Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "photos"


def test_hub_layer_example(tmp_path, photos):
    module = export_module(ResNetV2(26, 0.25), tmp_path / "module")
    run = subprocess.run(
        [sys.executable, EXAMPLE, module, photos, "--image-size=32", "--batch-size=4",
         "--epochs=1"],
        capture_output=True, text=True, timeout=300,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "Using 8 files for training" in run.stdout
    assert re.search(r"Held-out accuracy \d+\.\d% \(loss \d\.\d+\)", run.stdout)
