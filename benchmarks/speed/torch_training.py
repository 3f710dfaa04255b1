"""A contestant, in the environment "torch": training steps of timm's network.

python -m benchmarks.speed.torch_training '{"depth": 50, …}'
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks.speed import torch_only  # first: timm cannot be imported without it
from benchmarks.speed.worker import peak_bytes, resident_bytes, seconds_of, serve


class Training:
    """Updates on batches that are there already; settings as for `keras_training.Training`."""

    def __init__(
        self,
        depth: int,
        width: float,
        classes: int,
        weights: str,
        images: str,
        labels: str,
        learning_rate: float,
        precision: str = "float32",
        compiled: bool = False,
    ) -> None:
        model = torch_only.resnet(depth, width, classes, weights)
        self.network = model.train().to(memory_format=torch.channels_last)
        # One graph for each size of batch, which is what ours has too.
        self.forward = torch.compile(model, dynamic=False) if compiled else model
        self.optimizer = torch.optim.SGD(model.parameters(), learning_rate, momentum=0.9)
        self.files, self.bfloat16 = (images, labels), precision == "bfloat16"
        self.data: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def batch(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Images [B, 3, H, W], channels last in memory, and labels [B]."""
        if count not in self.data:
            images, labels = (np.load(f, mmap_mode="r")[:count].copy() for f in self.files)
            # A view of [B, H, W, 3]: this is channels last.
            self.data[count] = (
                torch.from_numpy(images).permute(0, 3, 1, 2),
                torch.from_numpy(labels),
            )
        return self.data[count]

    def step(self, batch: int) -> float:
        """One update; its loss."""
        images, labels = self.batch(batch)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bfloat16):
            loss = torch.nn.functional.cross_entropy(self.forward(images), labels)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def losses(self, batch: int, count: int) -> list[float]:
        """Of the next updates."""
        return [self.step(batch) for _ in range(count)]

    def steps(self, batch: int, seconds: float, least: int = 1) -> list[float]:
        """Seconds of each update, for about so long."""
        return seconds_of(partial(self.step, batch), seconds, least)

    def trace(self, batch: int) -> None:
        """Nothing: PyTorch computes as it goes."""
        self.batch(batch)

    def save(self, path: str) -> str:
        """Writes the weights as they are now."""
        state = self.network.state_dict()
        save_file(
            {name: value.contiguous() for name, value in state.items()}, f"{path}.safetensors"
        )
        return f"{path}.safetensors"


def main() -> None:
    """Serves."""
    torch.set_num_threads(os.cpu_count() or 1)
    before = resident_bytes()
    training = Training(**json.loads(sys.argv[1]))

    def memory() -> dict[str, Any]:
        return {"peak": peak_bytes(), "before": before}

    serve(
        {
            "losses": training.losses,
            "steps": training.steps,
            "trace": training.trace,
            "save": training.save,
            "memory": memory,
        },
        versions={"timm": torch_only.timm.__version__, "torch": torch.__version__},
    )


if __name__ == "__main__":
    main()
