"""Writes exact.npz: BiT in float64, written a second time in plain PyTorch, independent of Keras.

Run it in an environment of its own with PyTorch: `python tests/golden/make_exact.py`. The recipe of
weights and images is in README.md beside this file; `tests/golden_recipe.py` holds it for tests.
"""

import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

UNITS = {26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
CASES = {
    "R26x1_64x64": (26, 1, 64, 64, 10),
    "R50x1_224x224": (50, 1, 224, 224, 1000),
    "R50x1_65x97": (50, 1, 65, 97, 1000),
    "R101x1_64x64": (101, 1, 64, 64, 1000),
    "R50x3_64x64": (50, 3, 64, 64, 10),
    "R152x2_48x80": (152, 2, 48, 80, 10),
}


class Reference:
    """The network as functions; parameters are made on first use and kept by npz key."""

    def __init__(self, depth, width, classes):
        self.units, self.base, self.classes = UNITS[depth], 64 * width, classes
        self.params = {}

    def param(self, key, shape, scale, offset=0.0):
        """Value of the recipe: float32 arithmetic, then float64."""
        if key not in self.params:
            rng = np.random.default_rng(zlib.crc32(key.encode()))
            value = rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)
            value = torch.tensor(value + np.float32(offset)).double()
            self.params[key] = value.requires_grad_()
        return self.params[key]

    def conv(self, x, scope, size, filters, stride=1):
        kernel = self.param(
            f"{scope}/standardized_conv2d/kernel", (size, size, x.shape[1], filters), 0.05
        )
        variance, mean = torch.var_mean(kernel, dim=(0, 1, 2), keepdim=True, correction=0)
        kernel = ((kernel - mean) / torch.sqrt(variance + 1e-10)).permute(3, 2, 0, 1)
        return F.conv2d(x, kernel, None, stride, (size - 1) // 2)

    def norm(self, x, scope):
        gamma = self.param(f"{scope}/group_norm/gamma", (x.shape[1],), 0.1, 1.0)
        beta = self.param(f"{scope}/group_norm/beta", (x.shape[1],), 0.1)
        return F.relu(F.group_norm(x, 32, gamma, beta, 1e-5))

    def unit(self, x, scope, filters, stride, project):
        y = self.norm(x, f"{scope}/a")
        if project:
            x = self.conv(y, f"{scope}/a/proj", 1, 4 * filters, stride)
        y = self.conv(y, f"{scope}/a", 1, filters)
        y = self.conv(self.norm(y, f"{scope}/b"), f"{scope}/b", 3, filters, stride)
        return x + self.conv(self.norm(y, f"{scope}/c"), f"{scope}/c", 1, 4 * filters)

    def __call__(self, images):
        x = self.conv(
            torch.tensor(images).permute(0, 3, 1, 2), "resnet/root_block", 7, self.base, 2
        )
        x = F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2)
        for block, units in enumerate(self.units, 1):
            for unit in range(1, units + 1):
                scope = f"resnet/block{block}/unit{unit:02d}"
                stride = 2 if block > 1 and unit == 1 else 1
                x = self.unit(x, scope, self.base * 2 ** (block - 1), stride, unit == 1)
        features = self.norm(x, "resnet").mean((2, 3))
        head = "resnet/head/conv2d"
        kernel = self.param(f"{head}/kernel", (1, 1, features.shape[1], self.classes), 0.01)[0, 0]
        return features @ kernel + self.param(f"{head}/bias", (self.classes,), 0.1), features


def main():
    """Computes every case and writes the file."""
    exact = {}
    for name, (depth, width, height, wide, classes) in CASES.items():
        images = np.random.default_rng(0).uniform(-1, 1, (2, height, wide, 3))
        with torch.no_grad():
            logits, features = Reference(depth, width, classes)(images)
        exact[f"{name}/logits"], exact[f"{name}/features"] = logits.numpy(), features.numpy()
        print(name, flush=True)
    model, momentum = Reference(26, 1, 10), {}
    images = np.random.default_rng(1).uniform(-1, 1, (4, 64, 64, 3))
    labels, losses = torch.tensor([0, 3, 7, 9]), []
    for step in range(6):
        loss = F.cross_entropy(model(images)[0], labels)
        losses.append(loss.item())
        gradients = torch.autograd.grad(loss, list(model.params.values()))
        for key, gradient in zip(list(model.params), gradients, strict=True):
            if step == 0:
                exact[f"grad_l2/{key}"] = gradient.norm().numpy()
            momentum[key] = 0.9 * momentum.get(key, 0.0) + gradient
            updated = model.params[key].detach() - 0.001 * momentum[key]
            model.params[key] = updated.requires_grad_()
    exact["losses"] = np.array(losses)
    np.savez_compressed(Path(__file__).with_name("exact.npz"), **exact)


if __name__ == "__main__":
    main()
