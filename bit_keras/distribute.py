"""tf.distribute strategies by name."""

from __future__ import annotations

import tensorflow as tf


def _accelerators() -> list[str]:
    return [device.name for device in tf.config.list_logical_devices("GPU")]


def make_strategy(name: str = "auto") -> tf.distribute.Strategy:
    """The strategy called `name`.

    Args:
        name: "one_device" (the first GPU, else the CPU), "mirrored" (all local GPUs, else all
            logical CPUs) or "auto" (mirrored where there are several GPUs, else one_device).

    Raises:
        ValueError: for another name.

    Example:
        >>> make_strategy("one_device").num_replicas_in_sync
        1
    """
    gpus = _accelerators()
    if name == "auto":
        name = "mirrored" if len(gpus) > 1 else "one_device"
    if name == "one_device":
        return tf.distribute.OneDeviceStrategy(gpus[0] if gpus else "/cpu:0")
    if name == "mirrored":
        cpus = [device.name for device in tf.config.list_logical_devices("CPU")]
        return tf.distribute.MirroredStrategy(gpus or cpus)
    raise ValueError(f"`strategy` must be auto, one_device or mirrored. Received: {name!r}")


def split_cpu(count: int) -> None:
    """Makes `count` logical CPU devices, to try several replicas without GPUs.

    Raises:
        RuntimeError: when TensorFlow has already set up its devices.
    """
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration() for _ in range(count)]
    )
