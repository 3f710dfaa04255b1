"""The same network as its users would write it with Keras' own layers: a peer, nothing else.

Only the standardised convolution is written by hand, as the reference code's TF2 version has it.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from bit_keras.presets import BLOCK_STRIDES, Architecture


class StandardConv(layers.Conv2D):
    """Keras' convolution with its kernel standardised in `call`."""

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """Convolves with the standardised kernel."""
        mean, variance = ops.moments(kernel, axes=(0, 1, 2), keepdims=True)
        kernel = (kernel - mean) / ops.sqrt(variance + 1e-10)
        return super().convolution_op(inputs, kernel)


def _conv(x: Any, filters: int, size: int, strides: int, name: str) -> Any:
    padding = "same"
    if strides > 1 and size > 1:  # "same" would pad one side only
        x, padding = layers.ZeroPadding2D(size // 2)(x), "valid"
    conv = StandardConv(
        filters,
        size,
        strides,
        padding=padding,
        use_bias=False,
        name=f"{name}standardized_conv2d",
    )
    return conv(x)


def _norm_relu(x: Any, name: str) -> Any:
    return layers.ReLU()(layers.GroupNormalization(32, epsilon=1e-5, name=f"{name}group_norm")(x))


def _unit(x: Any, filters: int, strides: int, project: bool, name: str) -> Any:
    shortcut = x
    x = _norm_relu(x, f"{name}.a.")
    if project:
        shortcut = _conv(x, 4 * filters, 1, strides, f"{name}.a.proj.")
    x = _norm_relu(_conv(x, filters, 1, 1, f"{name}.a."), f"{name}.b.")
    x = _norm_relu(_conv(x, filters, 3, strides, f"{name}.b."), f"{name}.c.")
    return layers.Add()([_conv(x, 4 * filters, 1, 1, f"{name}.c."), shortcut])


def stock_resnet(depth: int, width: float, num_classes: int, size: int | None = None) -> Any:
    """BiT's ResNetV2 of stock layers; `bit_keras.load_npz` loads it, for the names are the same.

    Args:
        depth: as for `bit_keras.ResNetV2`.
        width: as for `bit_keras.ResNetV2`, 0.5 or more: 32 groups need as many channels.
        num_classes: outputs of the head.
        size: side of the images in pixels, which may help the layers; any size when left out.

    Returns:
        A `keras.Model` from images [B, H, W, 3] in [-1, 1] to logits [B, num_classes].

    Example:
        >>> from bit_keras import load_npz
        >>> model = stock_resnet(50, 1, 1000)
        >>> load_npz(model, "BiT-S-R50x1.npz")  # doctest: +SKIP
    """
    architecture = Architecture(depth, width)
    images = keras.Input((size, size, 3))
    x = _conv(images, architecture.root_filters, 7, 2, "root_block.")
    x = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(x))
    for block, (units, stride) in enumerate(zip(architecture.units, BLOCK_STRIDES, strict=True), 1):
        for unit in range(1, units + 1):
            first = unit == 1
            name = f"block{block}.unit{unit:02d}"
            filters = architecture.block_filters(block)
            x = _unit(x, filters, stride if first else 1, first, name)
    x = layers.GlobalAveragePooling2D()(_norm_relu(x, ""))
    return keras.Model(images, layers.Dense(num_classes, name="head.conv2d")(x))
