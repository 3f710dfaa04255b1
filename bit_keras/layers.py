"""The two layers that make a ResNet a BiT: weight standardisation and group normalisation.

Both compute their statistics in at least float32, whatever the layer's compute dtype, and both
expect channels last.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
from keras import ops

from bit_keras.normalization import group_normalization, statistics_dtype

# Reference code: `models.py` standardises with var + 1e-10. timm and Hugging Face use 1e-8 and
# big_vision's first version std + 1e-5; only this one reproduces the released models.
STANDARDIZATION_EPSILON = 1e-10
# Reference code: `normalization.py`. Keras' own GroupNormalization has 1e-3.
NORMALIZATION_EPSILON = 1e-5


def standardize_kernel(kernel: Any) -> Any:
    """Weight standardisation: every output filter gets mean 0 and variance 1 (paper, section 3.2).

    Args:
        kernel: [height, width, in, out], float. The variance is the biased one.

    Returns:
        (kernel − mean) / sqrt(variance + 1e-10), of the same shape, in at least float32.
    """
    kernel = ops.cast(kernel, statistics_dtype(kernel.dtype).name)
    filters = kernel.shape[-1]
    # Group normalisation with a group for every filter of a single "image", neither scaled nor
    # shifted: the same few passes, and a gradient that keeps the raw kernel only.
    standardized = group_normalization(
        ops.reshape(kernel, (1, -1, filters)),
        ops.ones(filters, kernel.dtype),
        ops.zeros(filters, kernel.dtype),
        filters,
        STANDARDIZATION_EPSILON,
    )
    return ops.reshape(standardized, kernel.shape)


@keras.saving.register_keras_serializable("bit_keras")
class FixedPaddingConv2D(keras.layers.Conv2D):
    """A 2-D convolution that pads as the reference does, whatever the input's size.

    Args:
        filters: number of output channels.
        kernel_size: side of the kernel, or (height, width).
        strides: stride along height and width.
        padding: "fixed" (default) pads (k − 1) // 2 zeros before and k // 2 after; Keras' "same"
            pads differently when strides are above 1. "valid" and "same" are Keras' own.
        use_bias: BiT has none.
        **kwargs: as for `keras.layers.Conv2D`, channels last only.

    Input shape:
        [batch, height, width, channels], float.

    Output shape:
        [batch, new height, new width, filters], in the layer's compute dtype.

    Source: reference code, `models.py`.

    Example:
        >>> FixedPaddingConv2D(64, 7, strides=2)(keras.ops.ones((1, 224, 224, 3))).shape
        TensorShape([1, 112, 112, 64])
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        strides: int | tuple[int, int] = 1,
        padding: str = "fixed",
        use_bias: bool = False,
        **kwargs: Any,
    ) -> None:
        if padding not in ("fixed", "valid", "same"):
            raise ValueError(f"`padding` must be 'fixed', 'valid' or 'same'. Received: {padding!r}")
        kwargs.setdefault("data_format", "channels_last")
        super().__init__(
            filters,
            kernel_size,
            strides,
            padding="valid" if padding == "fixed" else padding,
            use_bias=use_bias,
            **kwargs,
        )
        if self.data_format != "channels_last":
            raise ValueError(
                f"{type(self).__name__} works on channels last only: leave `data_format` out. "
                f"Received: {self.data_format!r}"
            )
        self._fixed = padding == "fixed"

    def _pads(self) -> list[tuple[int, int]]:
        spans = [(k - 1) * d for k, d in zip(self.kernel_size, self.dilation_rate, strict=True)]
        return [(span // 2, span - span // 2) for span in spans]

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """Convolves `inputs` with `kernel`."""
        padding = self.padding
        if self._fixed and any(self._pads()[0] + self._pads()[1]):
            # "same" is the same thing at stride 1 and odd sizes, and needs no padded copy.
            symmetric = all(before == after for before, after in self._pads())
            if symmetric and set(self.strides) == {1}:
                padding = "same"
            else:
                inputs = ops.pad(inputs, [(0, 0), *self._pads(), (0, 0)])
        return ops.conv(
            inputs,
            kernel,
            strides=list(self.strides),
            padding=padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Shape of the output for an input of `input_shape`."""
        if self._fixed:
            batch, height, width, channels = input_shape
            height, width = (
                None if side is None else side + sum(pad)
                for side, pad in zip((height, width), self._pads(), strict=True)
            )
            input_shape = (batch, height, width, channels)
        return super().compute_output_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this layer again."""
        return {**super().get_config(), "padding": "fixed" if self._fixed else self.padding}


@keras.saving.register_keras_serializable("bit_keras")
class StandardizedConv2D(FixedPaddingConv2D):
    """A 2-D convolution whose kernel is standardised before every use.

    The stored kernel stays raw, so weights interchange with the released npz files.

    Args:
        filters: number of output channels.
        kernel_size: side of the kernel, or (height, width).
        strides: stride along height and width.
        padding: "fixed" (default), "valid" or "same", as for `FixedPaddingConv2D`.
        use_bias: BiT has none.
        **kwargs: as for `keras.layers.Conv2D`, channels last only.

    Input shape:
        [batch, height, width, channels], float.

    Output shape:
        [batch, new height, new width, filters], in the layer's compute dtype.

    Source: Qiao et al. 2019, arXiv 1903.10520; BiT paper, section 3.2.

    Example:
        >>> StandardizedConv2D(64, 7, strides=2)(keras.ops.ones((1, 224, 224, 3))).shape
        TensorShape([1, 112, 112, 64])
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_use: Any = None  # a standardised kernel, while `using_kernels` is in force

    def add_weight(self, *args: Any, **kwargs: Any) -> Any:
        """Adds a weight; the kernel is never cast before its statistics are taken."""
        if kwargs.get("name") == "kernel":
            kwargs["autocast"] = False
        return super().add_weight(*args, **kwargs)

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """Convolves `inputs` with the standardised `kernel`."""
        return super().convolution_op(inputs, ops.cast(self.standardized_kernel(), inputs.dtype))

    @property
    def uses_given_kernel(self) -> bool:
        """Whether `using_kernels` is in force for this layer."""
        return self._in_use is not None

    def standardized_kernel(self) -> Any:
        """The kernel that is convolved with: standardised now, or what `using_kernels` gave."""
        return standardize_kernel(self.kernel) if self._in_use is None else self._in_use


def kernels(model: keras.Model) -> list[Any]:
    """The raw kernels of the model's convolutions, without the head's."""
    return [layer.kernel for layer in model.layers if isinstance(layer, FixedPaddingConv2D)]


def standardized_convolutions(model: keras.Model) -> list[StandardizedConv2D]:
    """The model's `StandardizedConv2D` layers."""
    return [layer for layer in model.layers if isinstance(layer, StandardizedConv2D)]


@contextlib.contextmanager
def using_kernels(
    convolutions: Sequence[StandardizedConv2D], kernels: Sequence[Any]
) -> Iterator[None]:
    """Within the block, convolutions use kernels that were standardised beforehand.

    What is traced in the block has no standardisation in its graph. Serving takes constants, which
    no longer follow the weights; training in parts standardises once for all of them.

    Args:
        convolutions: of `standardized_convolutions`.
        kernels: a standardised kernel for each of them.

    Example:
        >>> from bit_keras import ResNetV2
        >>> convolutions = standardized_convolutions(model := ResNetV2(26, 0.5))
        >>> with using_kernels(convolutions, [c.standardized_kernel() for c in convolutions]):
        ...     features = model(keras.ops.ones((1, 64, 64, 3)))
    """
    before = [layer._in_use for layer in convolutions]
    try:
        for layer, kernel in zip(convolutions, kernels, strict=True):
            layer._in_use = kernel
        yield
    finally:
        for layer, kernel in zip(convolutions, before, strict=True):
            layer._in_use = kernel


@keras.saving.register_keras_serializable("bit_keras")
class GroupNormalization(keras.layers.Layer):
    """Normalises each group of channels of each image to mean 0 and variance 1.

    Args:
        groups: number of groups; must divide the channels.
        epsilon: added to the (biased) variance.
        **kwargs: as for `keras.layers.Layer`.

    Input shape:
        [batch, ..., channels], float, any number of dimensions from two on.

    Output shape:
        The input's, in the layer's compute dtype. Statistics, scale and shift are float32 at least.

    Raises:
        ValueError: when `groups` does not divide the number of channels.

    Source: Wu & He 2018, arXiv 1803.08494; BiT paper, section 3.2.

    Example:
        >>> GroupNormalization(groups=32)(keras.random.normal((2, 8, 8, 64))).shape
        TensorShape([2, 8, 8, 64])
    """

    def __init__(
        self, groups: int = 32, epsilon: float = NORMALIZATION_EPSILON, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if groups < 1:
            raise ValueError(f"`groups` must be at least 1. Received: {groups!r}")
        self.groups = groups
        self.epsilon = epsilon
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        """Makes gamma and beta, one of each for every channel."""
        channels = input_shape[-1]
        if len(input_shape) < 2 or channels is None or channels % self.groups:
            raise ValueError(
                f"The {self.groups} groups of {self.name!r} must divide the channels, the last "
                f"dimension. Received input of shape {tuple(input_shape)}"
            )
        self.gamma = self.add_weight(
            name="gamma", shape=(channels,), initializer="ones", autocast=False
        )
        self.beta = self.add_weight(
            name="beta", shape=(channels,), initializer="zeros", autocast=False
        )

    def call(self, inputs: Any) -> Any:
        """Normalises `inputs`."""
        dtype = statistics_dtype(inputs.dtype)
        gamma, beta = ops.cast(self.gamma, dtype.name), ops.cast(self.beta, dtype.name)
        normalized = group_normalization(inputs, gamma, beta, self.groups, self.epsilon)
        return ops.cast(normalized, self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Shape of the output: the input's."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this layer again."""
        return {**super().get_config(), "groups": self.groups, "epsilon": self.epsilon}
