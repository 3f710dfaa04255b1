"""Weights of timm's `resnetv2_*_bit` models, loaded into ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np

from bit_keras.weights import WeightsFormatError

# timm's name of a layer → ours, without the ending. Kernels are OIHW there.
_RULES = (
    (r"stem\.conv", r"root_block.standardized_conv2d"),
    (r"stages\.(\d+)\.blocks\.(\d+)\.norm(\d)", r"block{0}.unit{1}.{2}.group_norm"),
    (r"stages\.(\d+)\.blocks\.(\d+)\.conv(\d)", r"block{0}.unit{1}.{2}.standardized_conv2d"),
    (r"stages\.(\d+)\.blocks\.(\d+)\.downsample\.conv",
     r"block{0}.unit{1}.a.proj.standardized_conv2d"),
    (r"norm", r"group_norm"),
    (r"head\.fc", r"head.conv2d"),
)  # fmt: skip
_ENDINGS = {
    "standardized_conv2d": {"weight": "kernel"},
    "group_norm": {"weight": "gamma", "bias": "beta"},
    "head.conv2d": {"weight": "kernel", "bias": "bias"},
}


def _renamed(key: str) -> tuple[str, str] | None:
    """Our layer and weight for a key of timm's, or None for a key that is none of a BiT's."""
    layer, _, ending = key.rpartition(".")
    for pattern, template in _RULES:
        match = re.fullmatch(pattern, layer)
        if not match:
            continue
        numbers = [int(number) for number in match.groups()]
        parts: list[str] = [str(n) for n in numbers]
        if len(numbers) >= 2:
            parts[0], parts[1] = str(numbers[0] + 1), f"{numbers[1] + 1:02d}"
        if len(numbers) == 3:
            parts[2] = "abc"[numbers[2] - 1]
        name = template.format(*parts)
        kind = next(kind for kind in _ENDINGS if name.endswith(kind))
        return (name, _ENDINGS[kind][ending]) if ending in _ENDINGS[kind] else None
    return None


def _placed(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """OIHW → HWIO, and the head's 1 × 1 convolution, or (out, in) matrix, → (in, out)."""
    if value.ndim == 4:
        value = value.transpose(2, 3, 1, 0)
    elif value.ndim == 2:
        value = value.T
    return value.reshape(shape) if value.size == np.prod(shape) else value


def load_timm(
    model: Any, weights: str | PathLike[str] | Mapping[str, np.ndarray], skip_head: bool = False
) -> None:
    """Loads a timm `resnetv2_*_bit` model's weights; strict.

    timm standardises with an epsilon of 1e-8 where the reference and we have 1e-10: logits agree
    to about 1e-4.

    Args:
        model: a `ResNetV2` of the same architecture.
        weights: a `.safetensors` file, as timm and the Hugging Face hub have them, or a mapping
            from timm's names to arrays: `{k: v.numpy() for k, v in net.state_dict().items()}`.
        skip_head: leave the model's head as it is.

    Raises:
        ImportError: for a file without the package safetensors.
        FileNotFoundError: there is no such file.
        WeightsFormatError: (a ValueError) for missing, extra or mis-shaped weights, all listed;
            the model is unchanged then.

    Example:
        >>> load_timm(model, "resnetv2_50x1_bit.safetensors", skip_head=True)  # doctest: +SKIP
    """
    state = weights if isinstance(weights, Mapping) else _read(weights)
    wanted = {
        (layer.name, variable.name): variable
        for layer in model.layers
        for variable in layer.weights
    }
    found: dict[tuple[str, str], np.ndarray] = {}
    extra = []
    for key, value in state.items():
        place = _renamed(key)
        if skip_head and place and place[0] == "head.conv2d":
            continue
        if place is None or place not in wanted:
            extra.append(key)
        else:
            found[place] = _placed(np.asarray(value), tuple(wanted[place].shape))
    if skip_head:
        wanted = {place: v for place, v in wanted.items() if place[0] != "head.conv2d"}
    faults = [f"missing: {'/'.join(place)}" for place in wanted if place not in found]
    faults += [f"not in the model: {key}" for key in extra]
    faults += [
        f"{'/'.join(place)}: model {tuple(wanted[place].shape)}, weights {value.shape}"
        for place, value in found.items()
        if tuple(wanted[place].shape) != value.shape
    ]
    if faults:
        raise WeightsFormatError(
            "The weights are not those of timm's model of this architecture and number of classes"
            " (skip_head=True keeps the model's own head).\n  " + "\n  ".join(faults)
        )
    for place, value in found.items():
        wanted[place].assign(value)


def _read(path: str | PathLike[str]) -> Mapping[str, np.ndarray]:
    try:
        from safetensors.numpy import load_file
    except ImportError as error:
        raise ImportError(
            "Reading .safetensors files needs safetensors: pip install 'bit-keras[convert]'."
        ) from error
    return load_file(path)
