"""BiT's ResNetV2: pre-activation bottleneck units with GroupNorm and weight standardisation.

Paper, section 3.2; He et al. 2016, arXiv 1603.05027 for ResNetV2. Layer names are the scopes of the
released npz files with dots: `block1.unit01.a.standardized_conv2d`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import keras
from keras import layers

from bit_keras import weights as npz
from bit_keras.layers import (
    NORMALIZATION_EPSILON,
    FixedPaddingConv2D,
    GroupNormalization,
    StandardizedConv2D,
)
from bit_keras.presets import BLOCK_STRIDES, Architecture, get_preset
from bit_keras.pretrained import find_weights

HEAD = "head.conv2d"  # a 1×1 convolution in the reference, a dense layer here
NORMS = ("gn", "bn", "sync_bn")
BATCH_NORM_MOMENTUM = 0.9  # of the moving averages; the paper does not say


@dataclass(frozen=True)
class _Layers:
    """Which layers a network is made of: BiT's own, or those it is compared with."""

    dtype: Any
    groups: int
    norm: str
    weight_standardization: bool

    def conv(self, filters: int, size: int, strides: int, scope: str) -> Any:
        if self.weight_standardization:
            kind, name = StandardizedConv2D, "standardized_conv2d"
        else:
            kind, name = FixedPaddingConv2D, "conv2d"
        return kind(filters, size, strides, dtype=self.dtype, name=f"{scope}{name}")

    def norm_relu(self, x: Any, scope: str) -> Any:
        if self.norm == "gn":
            norm = GroupNormalization(self.groups, dtype=self.dtype, name=f"{scope}group_norm")
        else:
            norm = layers.BatchNormalization(
                momentum=BATCH_NORM_MOMENTUM,
                epsilon=NORMALIZATION_EPSILON,
                synchronized=self.norm == "sync_bn",
                dtype=self.dtype,
                name=f"{scope}batch_norm",
            )
        return layers.ReLU(dtype=self.dtype, name=f"{scope}relu")(norm(x))


def _root_block(x: Any, filters: int, make: _Layers) -> Any:
    """7×7/2 convolution and 3×3/2 max pool; no norm, the first unit has one."""
    x = make.conv(filters, 7, 2, "root_block.")(x)
    # Zeros, not −inf, before the pool: the stem's output is signed, and the reference pads zeros.
    x = layers.ZeroPadding2D(1, dtype=make.dtype, name="root_block.pad")(x)
    return layers.MaxPooling2D(3, strides=2, dtype=make.dtype, name="root_block.max_pool")(x)


def _unit(x: Any, filters: int, stride: int, project: bool, make: _Layers, name: str) -> Any:
    """One pre-activation bottleneck: 1×1, 3×3 (with the stride), 1×1 to 4 × `filters`."""
    shortcut = x
    x = make.norm_relu(x, f"{name}.a.")
    if project:  # fed by the pre-activation, also in block 1, where only the channels change
        shortcut = make.conv(4 * filters, 1, stride, f"{name}.a.proj.")(x)
    x = make.conv(filters, 1, 1, f"{name}.a.")(x)
    x = make.norm_relu(x, f"{name}.b.")
    x = make.conv(filters, 3, stride, f"{name}.b.")(x)
    x = make.norm_relu(x, f"{name}.c.")
    x = make.conv(4 * filters, 1, 1, f"{name}.c.")(x)
    return layers.Add(dtype=make.dtype, name=name)([x, shortcut])


@keras.saving.register_keras_serializable("bit_keras")
class ResNetV2(keras.Model):
    """A BiT ResNetV2 as an ordinary functional Keras model.

    Args:
        depth: 26, 50, 101 or 152.
        width: factor on the number of filters, also fractional; 1 has 2048 features.
        num_classes: outputs of the zero-initialised head; None for features.
        dtype: dtype or policy of all layers, such as "float64", "mixed_bfloat16"; None for Keras'
            global policy. Pooling and head compute in the policy's variable dtype.
        name: of the model.
        norm: "gn", BiT's group norm; for comparisons "bn", batch norm, or "sync_bn", batch norm
            with the statistics of all replicas (paper, tables 4 and 5).
        weight_standardization: False leaves the kernels as they are.

    Input shape:
        [batch, height, width, 3], RGB in [-1, 1]; any height and width.

    Output shape:
        Logits [batch, num_classes], or features [batch, 2048 × width] when `num_classes` is None.

    Attributes:
        architecture: the table row that this model was built from.
        pyramid_outputs: dict "P2"…"P5" of the four blocks' outputs, strides 4 to 32.

    Raises:
        ValueError: for a depth that is not in the table, or a width or head without outputs.

    Source: paper, section 3.2 and appendix; reference code `bit_tf2/models.py`.

    Example:
        >>> model = ResNetV2(depth=50, width=1, num_classes=10)
        >>> model(keras.ops.zeros((2, 64, 64, 3))).shape
        TensorShape([2, 10])
    """

    def __init__(
        self,
        depth: int = 50,
        width: float = 1,
        num_classes: int | None = None,
        dtype: Any = None,
        name: str = "resnet",
        norm: str = "gn",
        weight_standardization: bool = True,
        **kwargs: Any,
    ) -> None:
        if num_classes is not None and num_classes < 1:
            raise ValueError(
                f"`num_classes` must be None (features) or at least 1. Received: {num_classes!r}"
            )
        architecture = Architecture(depth, width)
        policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        if norm not in NORMS:
            raise ValueError(f"`norm` must be one of {', '.join(NORMS)}. Received: {norm!r}")
        make = _Layers(policy, architecture.groups, norm, weight_standardization)

        images = keras.Input((None, None, 3), dtype=policy.variable_dtype, name="image")
        x = _root_block(images, architecture.root_filters, make)
        pyramid = {}
        for block, (units, stride) in enumerate(
            zip(architecture.units, BLOCK_STRIDES, strict=True), 1
        ):
            filters = architecture.block_filters(block)
            for unit in range(1, units + 1):
                first = unit == 1
                scope = f"block{block}.unit{unit:02d}"
                x = _unit(x, filters, stride if first else 1, first, make, scope)
            pyramid[f"P{block + 1}"] = x
        x = make.norm_relu(x, "")
        # Half precision ends here: pooled features and logits keep the variables' dtype.
        x = layers.GlobalAveragePooling2D(dtype=policy.variable_dtype, name="features")(x)
        if num_classes is not None:
            # The head starts from zero (paper, section 3.3).
            head = layers.Dense(
                num_classes, kernel_initializer="zeros", dtype=policy.variable_dtype, name=HEAD
            )
            x = head(x)

        super().__init__(inputs=images, outputs=x, name=name, **kwargs)
        self.dtype_policy = policy  # as an argument, a functional model ignores it
        self.architecture = architecture
        self.num_classes = num_classes
        self.norm, self.weight_standardization = norm, weight_standardization
        self.pyramid_outputs = pyramid

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this model again."""
        return {
            "depth": self.architecture.depth,
            "width": self.architecture.width,
            "num_classes": self.num_classes,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "name": self.name,
            "norm": self.norm,
            "weight_standardization": self.weight_standardization,
            "trainable": self.trainable,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> ResNetV2:
        """Makes the model from what `get_config` returned."""
        config = dict(config)
        if isinstance(config.get("dtype"), dict):
            config["dtype"] = keras.dtype_policies.deserialize(config["dtype"])
        return cls(**config)

    @classmethod
    def from_preset(
        cls,
        name: str,
        num_classes: int | None = None,
        weights: str | PathLike[str] | None = "pretrained",
        dtype: Any = None,
    ) -> ResNetV2:
        """A model of the zoo, ready to be fine-tuned.

        Args:
            name: a preset such as "BiT-M-R50x1"; see `list_presets`.
            num_classes: outputs of the head, or None for features. The file's head is loaded when
                it has just as many; otherwise the head is new, starts from zero, and a line on
                stderr says so.
            weights: "pretrained" for the released file (looked for in $BIT_KERAS_WEIGHTS, in the
                package, in the cache, then downloaded); a path to an npz file; or None for random
                weights.
            dtype: as for `ResNetV2`.

        Raises:
            ValueError: for an unknown preset, one whose weights were never released, or a file
                that does not fit.
            OSError: when the file can neither be found nor downloaded.

        Example:
            >>> model = ResNetV2.from_preset("BiT-M-R50x1", num_classes=10, weights=None)
            >>> model.count_params()
            23520842
        """
        preset = get_preset(name)
        path: Path | None = None
        if weights == "pretrained":
            if preset.filename is None:
                raise ValueError(
                    f"{name} has no weights: {preset.unavailable}. Take another preset "
                    "(`bit-keras models` shows which have some), pass the path of an npz file, or "
                    "weights=None to start from scratch."
                )
            path = find_weights(preset.filename)
        elif weights is not None:
            path = Path(weights)

        architecture = preset.architecture
        model = cls(architecture.depth, architecture.width, num_classes, dtype=dtype)
        if path is not None:
            file_classes = npz.head_classes(path)
            new_head = num_classes is not None and num_classes != file_classes
            if new_head:
                held = f"has {file_classes} classes" if file_classes else "has no head"
                print(
                    f"{path.name} {held}: the head with {num_classes} classes is new and starts "
                    "from zero.",
                    file=sys.stderr,
                )
            npz.load_npz(model, path, skip_head=num_classes is None or new_head)
        return model
