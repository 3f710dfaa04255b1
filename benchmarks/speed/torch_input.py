"""A contestant, in the environment "torch": PyTorch's DataLoader with torchvision's transforms.

python -m benchmarks.speed.torch_input '{"folder": "photographs", "batch": 32, "size": 224, …}'
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from benchmarks.speed import torch_only  # noqa: F401, first: torchvision needs its operators
from benchmarks.speed.input_turns import Batch, serve_batches

# isort: split
import PIL
import torchvision
from torchvision import transforms


def loader(
    folder: str, batch: int, size: int, area: Sequence[float], workers: int
) -> torch.utils.data.DataLoader:
    """Batches of random crops of the images in a folder's class folders, mirrored at random.

    Args:
        folder: as `torchvision.datasets.ImageFolder` takes it.
        batch: images in one.
        size: side of the images in pixels.
        area: least and largest share of the image that a crop has.
        workers: processes that read.
    """
    view = transforms.Compose(
        [
            transforms.RandomResizedCrop(size, scale=tuple(area)),  # antialiased, as Pillow does
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    return torch.utils.data.DataLoader(
        torchvision.datasets.ImageFolder(folder, view),
        batch,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        persistent_workers=True,  # else they start anew with every epoch
    )


def _endless(batches: torch.utils.data.DataLoader) -> Iterator[Any]:
    while True:
        yield from batches


def _arrays(batch: Any) -> Batch:
    images, labels = batch
    return images.permute(0, 2, 3, 1).numpy(), labels.numpy()


def main() -> None:
    """Serves."""
    settings = json.loads(sys.argv[1])
    classes = settings.pop("classes")
    versions = {
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "Pillow": PIL.__version__,
    }
    # A loader of its own for every turn, whose processes end with it.
    serve_batches(
        lambda: _endless(loader(**settings)), _arrays, settings["batch"], classes, versions=versions
    )


if __name__ == "__main__":
    main()
