"""Runs where timm and transformers are, never in our environment: their answers for our weights.

    python interop_torch_peer.py WEIGHTS.npz IMAGES.npy OUT

writes OUT/timm.npy and OUT/hugging_face.npy, logits for images float32 [B, H, W, 3] in [-1, 1], and
OUT/timm.safetensors.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.speed.torch_only import resnet  # first: it makes torchvision importable

# isort: split
from transformers import BitConfig, BitForImageClassification

from benchmarks.speed.torch_inference import hugging_face_name


def main(weights, images, out):
    images = torch.from_numpy(np.load(images).transpose(0, 3, 1, 2).copy())
    classes = np.load(weights)["resnet/head/conv2d/bias"].shape[0]
    model = resnet(50, 1, classes, weights).eval()
    state = model.state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, out / "timm.safetensors")

    peer = BitForImageClassification(BitConfig(conv_layer="std_conv", num_labels=classes)).eval()
    renamed = {hugging_face_name(name): value for name, value in state.items()}
    renamed = {k: v.reshape(peer.state_dict()[k].shape) for k, v in renamed.items()}
    peer.load_state_dict(renamed)
    with torch.no_grad():
        np.save(out / "timm.npy", model(images).numpy())
        np.save(out / "hugging_face.npy", peer(pixel_values=images).logits.numpy())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
