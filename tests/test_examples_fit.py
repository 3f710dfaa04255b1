import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
from toy import MODEL, write_npz

from bit_keras import ResNetV2, load_npz

SCRIPT = Path(__file__).parent.parent / "examples" / "model_fit.py"


def test_the_example_is_short():
    assert len(SCRIPT.read_text().splitlines()) < 60


def test_model_fit_example_trains_and_saves(tmp_path):
    data = write_npz(tmp_path / "toy.npz")
    output = tmp_path / "run"
    words = [data, str(output), f"--model={MODEL}", "--scratch", "--batch-size=12",
             "--steps=12", "--image-size=32"]  # fmt: skip
    subprocess.run([sys.executable, str(SCRIPT), *words], check=True, capture_output=True)
    assert (output / "model.keras").is_file()
    with (output / "metrics.csv").open() as stream:
        (record,) = csv.DictReader(stream)
    assert np.isfinite(float(record["loss"]))
    assert 0 <= float(record["val_accuracy"]) <= 1
    model = ResNetV2(26, 0.5, num_classes=3)
    load_npz(model, output / "model.npz")
    assert np.abs(np.array(model.layers[-1].kernel)).max() > 0  # the head started from zero
