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

# timm imports torchvision, uses nothing of it here, and PyPI's, built for CUDA, cannot be imported
# beside a PyTorch for the CPU unless these operators are known.
_OPERATORS = torch.library.Library("torchvision", "DEF")
if torch.version.cuda is None:
    for _name in ("nms", "qnms"):
        _OPERATORS.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import timm  # noqa: E402
from transformers import BitConfig, BitForImageClassification  # noqa: E402


def hugging_face_name(name):
    """The name in transformers of a weight of timm's, as transformers' own conversion has it."""
    name = name.replace("stem.conv", "bit.embedder.convolution")
    name = name.replace("blocks", "layers").replace("head.fc", "classifier.1")
    if name.startswith("norm"):
        name = f"bit.{name}"
    return name if "bit" in name or "classifier" in name else f"bit.encoder.{name}"


def main(weights, images, out):
    images = torch.from_numpy(np.load(images).transpose(0, 3, 1, 2).copy())
    classes = np.load(weights)["resnet/head/conv2d/bias"].shape[0]
    model = timm.create_model("resnetv2_50x1_bit", num_classes=classes).eval()
    model.load_pretrained(weights)
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
