"""Our weights in timm and Hugging Face transformers, and timm's in ours."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from interop import environment

from benchmarks.environments import TORCH
from benchmarks.speed.training import draw_weights
from bit_keras import ResNetV2, load_npz, load_timm, save_npz

pytestmark = pytest.mark.long
CLASSES = 7


@pytest.fixture(scope="module")
def peers(tmp_path_factory):
    """Random weights of an R50x1 and what all three make of them."""
    folder = tmp_path_factory.mktemp("peers")
    model = ResNetV2(50, 1, CLASSES)
    rng = np.random.default_rng(0)
    draw_weights(model, rng)
    save_npz(model, folder / "ours.npz")
    images = rng.uniform(-1, 1, (2, 96, 80, 3)).astype(np.float32)
    np.save(folder / "images.npy", images)
    python = environment("torch", *TORCH)
    script = Path(__file__).with_name("interop_torch_peer.py")
    subprocess.run([python, script, folder / "ours.npz", folder / "images.npy", folder], check=True)
    return folder, np.array(model(images)), images


@pytest.mark.parametrize("peer", ["timm", "hugging_face"])
def test_a_peer_gives_the_same_logits(peers, peer):
    folder, expected, _ = peers
    found = np.load(folder / f"{peer}.npy")
    assert np.ptp(expected) > 1
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_timms_weights_come_back_unchanged(peers):
    folder, expected, images = peers
    model, again = ResNetV2(50, 1, CLASSES), ResNetV2(50, 1, CLASSES)
    load_timm(model, folder / "timm.safetensors")
    load_npz(again, folder / "ours.npz")
    for a, b in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(np.array(a), np.array(b))
    np.testing.assert_array_equal(np.array(model(images)), expected)
