"""TFDS builders of this package: `clipart`, `imagenet21k` (upstream), `stamps` (downstream)."""

from __future__ import annotations


def register() -> None:
    """Makes `tfds.builder("clipart")`, "imagenet21k" and "stamps" known to TFDS.

    TFDS registers a builder when its module is imported; that imports TensorFlow, so it is not
    done when `bit_keras.datasets` is.

    Example:
        >>> register()
        >>> import tensorflow_datasets as tfds
        >>> tfds.builder("stamps", data_dir="/tmp/datasets").name  # doctest: +SKIP
        'stamps'
    """
    from bit_keras.datasets import clipart, imagenet21k, stamps  # noqa: F401
