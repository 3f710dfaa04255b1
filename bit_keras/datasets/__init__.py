"""TFDS builders of this package: `clipart` (upstream) and `stamps` (downstream)."""

from __future__ import annotations


def register() -> None:
    """Makes `tfds.builder("clipart")` and `tfds.builder("stamps")` known to TFDS.

    TFDS registers a builder when its module is imported; that imports TensorFlow, so it is not
    done when `bit_keras.datasets` is.

    Example:
        >>> register()
        >>> import tensorflow_datasets as tfds
        >>> tfds.builder("stamps", data_dir="/tmp/datasets").name  # doctest: +SKIP
        'stamps'
    """
    from bit_keras.datasets import clipart, stamps  # noqa: F401
