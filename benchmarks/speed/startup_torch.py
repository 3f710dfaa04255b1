"""A contestant that only starts, in the environment "torch": timm's network, and one image.

python -m benchmarks.speed.startup_torch '{"weights": "w.npz", "images": "images.npy", …}'
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import numpy as np
import torch

from benchmarks.speed import torch_only
from benchmarks.speed.worker import serve


def made(depth: int, width: float, classes: int, weights: str) -> Any:
    """timm's network with the weights of a file, safetensors or npz, as timm's users make it."""
    if (depth, width) == (50, 1):
        return torch_only.timm.create_model(
            "resnetv2_50x1_bit", num_classes=classes, checkpoint_path=weights
        )
    return torch_only.resnet(depth, width, classes, weights)  # of npz files only


def main() -> None:
    """Answers the first image of a file with float32 [N, H, W, 3] in [-1, 1], and says so.

    With "save" among the settings it then writes the weights there, as safetensors.
    """
    settings = json.loads(sys.argv[1])
    image, save = np.load(settings.pop("images"))[:1], settings.pop("save", "")
    torch.set_num_threads(os.cpu_count() or 1)
    before = time.perf_counter()
    model = made(**settings).eval()
    with torch.inference_mode():
        logits = model(torch.from_numpy(image).permute(0, 3, 1, 2)).numpy()
    seconds = time.perf_counter() - before
    if save:
        from safetensors.torch import save_file

        save_file(model.state_dict(), save)
    versions = {"timm": torch_only.timm.__version__, "torch": torch.__version__}
    serve({}, seconds=seconds, logits=logits[0].tolist(), versions=versions)


if __name__ == "__main__":
    main()
