"""A module of ours in TensorFlow 2.15 with tensorflow-addons, which ends there."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from interop import environment, interpreter, run
from PIL import Image

from bit_keras import GroupNormalization, ResNetV2, export_module
from bit_keras.preprocess import to_model_range

pytestmark = pytest.mark.long
EXAMPLE = Path(__file__).parents[1] / "examples" / "addons_finetune.py"
REQUIREMENTS = (
    "tensorflow==2.15.1", "tensorflow-addons==0.23.0", "tensorflow-hub==0.16.1", "numpy<2",
    "typeguard<3", "setuptools<82",
)  # fmt: skip
CLASSES = 3


@pytest.fixture(scope="module")
def python():
    return environment("addons", *REQUIREMENTS, python=interpreter("3.11"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Twelve noisy images of three classes, each brightest in another channel."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for channel in range(CLASSES):
        (folder / f"class{channel}").mkdir()
        for i in range(4):
            pixels = rng.integers(0, 100, (36, 44, 3), np.uint8)
            pixels[..., channel] += 150
            Image.fromarray(pixels).save(folder / f"class{channel}" / f"{i}.png")
    return folder


def random_scales(model):
    """Makes scales, shifts and the head other than their 0 and 1, so that none is left out."""
    rng = np.random.default_rng(1)
    for variable in model.weights:
        if variable.name in ("gamma", "beta"):
            variable.assign(rng.normal(variable.name == "gamma", 0.1, variable.shape))
        elif "head" in variable.path:
            variable.assign(rng.normal(0, 0.05, variable.shape))
    return model


def reference(model, path):
    """What this package computes on random input, as the example reads it; gives the outputs."""
    rng = np.random.default_rng(2)
    images = rng.uniform(0, 1, (4, 64, 48, 3)).astype(np.float32)
    outputs = np.array(model(to_model_range(images), training=False))
    x = rng.normal(3, 2, (2, 9, 7, 64)).astype(np.float32)
    gamma, beta = rng.normal(1, 0.3, 64), rng.normal(0, 0.3, 64)
    layer = GroupNormalization(groups=32)
    layer.build(x.shape)
    layer.gamma.assign(gamma)
    layer.beta.assign(beta)
    np.savez(
        path, images=images, outputs=outputs, norm_input=x, norm_gamma=gamma, norm_beta=beta,
        norm=np.array(layer(x)),
    )  # fmt: skip
    return outputs


@pytest.mark.parametrize("num_classes", [None, CLASSES], ids=["features", "logits"])
def test_module_fine_tunes_with_addons_and_computes_the_same(tmp_path, python, photos, num_classes):
    model = random_scales(ResNetV2(26, 0.25, num_classes))
    module = export_module(model, tmp_path / "module")
    outputs = reference(model, tmp_path / "reference.npz")

    output = tmp_path / "tuned"
    printed = run(
        python, EXAMPLE, module, photos, "--image-size=32", "--batch-size=6", "--epochs=6",
        f"--reference={tmp_path / 'reference.npz'}", f"--output={output}",
    )  # fmt: skip
    print(printed)
    module_off, norm_off = (float(x) for x in re.findall(r"max difference (\S+)", printed))
    assert np.ptp(outputs) > 0.5
    assert module_off <= 1e-5 * max(1, np.abs(outputs).max())
    assert norm_off <= 1e-5
    changed, weights = re.search(r"(\d+) of (\d+) weights changed", printed).groups()
    assert int(changed) == int(weights) == len(model.weights)
    before, after = map(float, re.search(r"loss (\S+) → (\S+),", printed).groups())
    assert after < 0.8 * before
    assert (output / "saved_model.pb").is_file()


def test_addons_normalizes_otherwise_without_our_epsilon(tmp_path, python):
    """So that equality is not a matter of course: addons' own epsilon, 1e-3, gives other values."""
    model = ResNetV2(26, 0.25)
    reference(model, tmp_path / "reference.npz")
    script = tmp_path / "script.py"
    script.write_text(
        "import json, sys, numpy as np, tensorflow_addons as tfa\n"
        "r = np.load(sys.argv[1])\n"
        "layer = tfa.layers.GroupNormalization(groups=32)\n"
        "layer.build(r['norm_input'].shape)\n"
        "layer.set_weights([r['norm_gamma'], r['norm_beta']])\n"
        "off = float(np.abs(layer(r['norm_input']).numpy() - r['norm']).max())\n"
        "print(json.dumps([layer.epsilon, off]))\n"
    )
    epsilon, off = json.loads(run(python, script, tmp_path / "reference.npz").splitlines()[-1])
    assert epsilon == 1e-3
    assert off > 1e-4
