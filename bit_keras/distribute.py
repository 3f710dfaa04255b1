"""tf.distribute strategies by name, and what the workers of one tell each other."""

from __future__ import annotations

import functools
import json
import os
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import tensorflow as tf

NAMES = ("auto", "one_device", "mirrored", "multi_worker", "tpu")
_TPU_PORT, _TPU_SECONDS = 8470, 10  # where a TPU listens, and how long it may take to answer


def _gpus() -> list[str]:
    return [device.name for device in tf.config.list_logical_devices("GPU")]


def _cluster_size() -> int:
    """Workers that TF_CONFIG names; 1 without it.

    Raises:
        ValueError: when TF_CONFIG is set to something else than a cluster.
    """
    text = os.environ.get("TF_CONFIG", "")
    if not text:
        return 1
    try:
        cluster = json.loads(text)["cluster"]
        return len(cluster.get("chief", [])) + len(cluster["worker"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(
            'TF_CONFIG must be {"cluster": {"worker": ["HOST:PORT", …]}, "task": {"type": '
            f'"worker", "index": 0}}}}. Received: {text}'
        ) from None


def _auto(tpu: str) -> str:
    if tpu:
        return "tpu"
    if _cluster_size() > 1:
        return "multi_worker"
    return "mirrored" if len(_gpus()) > 1 else "one_device"


def _multi_worker() -> tf.distribute.Strategy:
    if not os.environ.get("TF_CONFIG"):
        raise ValueError(
            "The strategy multi_worker needs the environment variable TF_CONFIG with the cluster's "
            "addresses; examples/cluster has scripts that set it."
        )
    _cluster_size()
    return tf.distribute.MultiWorkerMirroredStrategy()


def _check_answers(address: str) -> None:
    """Connects to a remote TPU's port; TensorFlow itself would wait for minutes.

    Raises:
        OSError: when nobody listens there.
    """
    if address.startswith("grpc://"):
        url = urlsplit(address)
        with socket.create_connection((url.hostname, url.port or _TPU_PORT), _TPU_SECONDS):
            pass


def _tpu(name: str) -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
        _check_answers(resolver.master())
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, OSError, RuntimeError, tf.errors.OpError) as error:
        reason = str(error).partition("\n")[0]
        raise OSError(
            f"No TPU {name!r} answers: {reason}. On a TPU VM pass --tpu=local; elsewhere the "
            "TPU's name, or its address as grpc://HOST:8470."
        ) from error
    return tf.distribute.TPUStrategy(resolver)


@functools.cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    # One for the whole process: TensorFlow numbers the collective operations of every strategy from
    # 100 on, takes those of a second one for the first's, and stops at the first other shape.
    return tf.distribute.MirroredStrategy(devices)


def make_strategy(name: str = "auto", tpu: str = "") -> tf.distribute.Strategy:
    """The strategy called `name`.

    Args:
        name: "one_device" (the first GPU, else the CPU), "mirrored" (all local GPUs, else all
            logical CPUs), "multi_worker" (the cluster in TF_CONFIG; to be made before anything
            else of TensorFlow), "tpu", or "auto": tpu where `tpu` is given, multi_worker where
            TF_CONFIG names several workers, mirrored where there are several GPUs, else one_device.
        tpu: "local" on a TPU VM, else the TPU's name or address.

    Raises:
        ValueError: for another name, or a TF_CONFIG that is none.
        OSError: when the TPU does not answer.

    Example:
        >>> make_strategy("one_device").num_replicas_in_sync
        1
    """
    if name not in NAMES:
        raise ValueError(f"`strategy` must be {', '.join(NAMES)}. Received: {name!r}")
    if name == "auto":
        name = _auto(tpu)
    if name == "tpu":
        return _tpu(tpu or "local")
    if name == "multi_worker":
        return _multi_worker()
    gpus = _gpus()
    if name == "one_device":
        return tf.distribute.OneDeviceStrategy(gpus[0] if gpus else "/cpu:0")
    cpus = [device.name for device in tf.config.list_logical_devices("CPU")]
    return _mirrored(tuple(gpus or cpus))


def split_cpu(count: int) -> None:
    """Makes `count` logical CPU devices, to try several replicas without GPUs.

    Raises:
        RuntimeError: when TensorFlow has already set up its devices.
    """
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration() for _ in range(count)]
    )


@dataclass(frozen=True)
class Part:
    """The part of the data that one worker reads.

    Attributes:
        worker: its number, from 0.
        workers: how many there are.
        batch_size: examples that it delivers at a time.
    """

    worker: int
    workers: int
    batch_size: int


def distributed(
    strategy: tf.distribute.Strategy,
    batch_size: int,
    batches: Callable[[Part], tf.data.Dataset],
) -> Any:
    """The data set that a strategy iterates over.

    One worker makes whole batches, which are then cut for its replicas. Of several workers each
    makes its own part, in the size of one replica's share.
    """
    if Workers(strategy).count == 1:
        return strategy.experimental_distribute_dataset(batches(Part(0, 1, batch_size)))

    def own_part(context: tf.distribute.InputContext) -> tf.data.Dataset:
        share = context.get_per_replica_batch_size(batch_size)
        return batches(Part(context.input_pipeline_id, context.num_input_pipelines, share))

    return strategy.distribute_datasets_from_function(own_part)


class WorkerLostError(OSError):
    """Another process of the strategy has died, or cannot be reached."""


class Workers:
    """The processes of a strategy, of which this is one.

    Args:
        strategy: of the run.

    Attributes:
        count: how many there are.
        index: which one this is, from 0.
        chief: whether this is the one that writes files.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self._strategy = strategy
        multi = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        resolver = strategy.cluster_resolver if multi else None
        cluster = resolver.cluster_spec().as_dict() if resolver else {}
        chiefs = len(cluster.get("chief", ()))
        self.count = max(1, chiefs + len(cluster.get("worker", ())))
        offset = chiefs if resolver and resolver.task_type == "worker" else 0
        self.index = offset + (resolver.task_id or 0) if resolver else 0
        self.chief = self.index == 0
        self._summed: Any = None

    @contextmanager
    def losses_told(self) -> Iterator[None]:
        """Says in plain words what it means when another worker stops answering.

        Raises:
            WorkerLostError: instead of what TensorFlow raises then.
        """
        try:
            yield
        except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
            if self.count == 1:
                raise
            found = re.search(r"aborted by: (.+?):?$", str(error), re.MULTILINE)
            raise WorkerLostError(
                f"another worker has gone ({found[1] if found else 'no answer'}). Start all "
                "workers again with --resume: they go on from the last checkpoint."
            ) from error

    def exchange(self, numbers: Sequence[float]) -> np.ndarray:
        """Tells all workers some numbers, and waits for theirs.

        Returns:
            int64 [count, len(numbers)], one row for each worker.
        """
        if self.count == 1:
            return np.asarray(numbers, np.int64)[None]
        if self._summed is None:
            self._summed = tf.function(self._sum)
        rows = np.zeros((self.count, len(numbers)), np.int64)
        rows[self.index] = numbers
        with self.losses_told():
            return self._summed(tf.constant(rows)).numpy()

    def _sum(self, rows: tf.Tensor) -> tf.Tensor:
        local = self._strategy.num_replicas_in_sync // self.count
        shares = self._strategy.run(lambda: tf.identity(rows))
        return self._strategy.reduce(tf.distribute.ReduceOp.SUM, shares, axis=None) // local
