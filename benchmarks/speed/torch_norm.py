"""A contestant, in the environment "torch": `torch.nn.functional.group_norm`, channels last.

python -m benchmarks.speed.torch_norm '{"groups": 32, "epsilon": 1e-5}'
"""

from __future__ import annotations

import json
import os
import sys

import numpy as np
import torch
from torch.nn.functional import group_norm

from benchmarks.speed.norm_answers import Forms, inputs, serve_norms


class Norms:
    """PyTorch's function; settings as for `norm_worker.Norms`."""

    def __init__(self, groups: int, epsilon: float) -> None:
        self.groups, self.epsilon = groups, epsilon

    def forms(self, shape: tuple[int, ...]) -> Forms:
        """Forward, and with gradients, on inputs of a shape [B, H, W, C]."""
        x, upstream, gamma, beta = map(torch.from_numpy, inputs(shape))
        # A view of [B, H, W, C]: this is channels last.
        x, upstream = x.permute(0, 3, 1, 2), upstream.permute(0, 3, 1, 2)
        leaves = [tensor.detach().clone().requires_grad_() for tensor in (x, gamma, beta)]

        def forward() -> torch.Tensor:
            with torch.inference_mode():
                return group_norm(x, self.groups, gamma, beta, self.epsilon)

        def gradient() -> tuple[torch.Tensor, ...]:
            y = group_norm(leaves[0], self.groups, leaves[1], leaves[2], self.epsilon)
            return (y, *torch.autograd.grad(y, leaves, upstream))

        return {"torch": forward, "torch, gradient": gradient}


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach()
    return (tensor.permute(0, 2, 3, 1) if tensor.ndim == 4 else tensor).numpy()


def main() -> None:
    """Serves."""
    torch.set_num_threads(os.cpu_count() or 1)
    norms = Norms(**json.loads(sys.argv[1]))
    serve_norms(norms.forms, _numpy, {"torch": torch.__version__})


if __name__ == "__main__":
    main()
