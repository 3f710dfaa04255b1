"""One and two replicas measured on two cores of this machine, beside what `scaling` says of them.

Each replica gets a core of its own: a process that may use one core trains with one replica, a
process that may use two with two logical CPUs under MirroredStrategy, in turns, each with the same
number of images a replica. A third measures what a core can do.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from statistics import median

from bit_keras.accelerators import Accelerator
from bit_keras.presets import get_preset
from bit_keras.scaling import EFFICIENCY, compute_time
from bit_keras.text import table
from bit_keras.workload import Workload

MODEL, SIZE, IMAGES, CLASSES = "BiT-XS-R26x0.5", 64, 32, 136


@dataclass(frozen=True)
class Times:
    """Seconds by one clock, one entry a round.

    Attributes:
        one: of an update of one replica on one core.
        two: of an update of two replicas on two cores.
        all_reduce: of summing the gradients of two replicas.
    """

    one: list[float]
    two: list[float]
    all_reduce: list[float]

    @property
    def predicted_two(self) -> float:
        """What one replica's update and the sum say of two replicas."""
        return median(self.one) + median(self.all_reduce)

    def rows(self, clock: str, predicted_one: float) -> list[tuple[str, ...]]:
        """Rows of the table: clock, what, median, spread, model, how far the model is off."""
        return [
            _row(clock, "1 replica, 1 core", self.one, predicted_one),
            _row("", "2 replicas, 2 cores", self.two, self.predicted_two),
            _row("", "all-reduce of them", self.all_reduce, None),
        ]

    def gains(self) -> str:
        """Images/s of two replicas over those of one, found and predicted."""
        one = 2 * median(self.one)
        return f"{one / median(self.two):.2f} (model {one / self.predicted_two:.2f})"


@dataclass(frozen=True)
class Measured:
    """What was found.

    Attributes:
        flops: FLOP/s of float32 matrix products on one core.
        bandwidth: bytes/s that one core reads and writes.
        decode: images/s that one core decodes and crops.
        jpeg_bytes: of the image that it decoded.
        wall: times by the wall clock, in which a busy machine's other work counts.
        processor: the processor's time of each core, in which waiting does not count.
        load: load average of the machine at the end.
    """

    flops: float
    bandwidth: float
    decode: float
    jpeg_bytes: int
    wall: Times
    processor: Times
    load: float

    def predicted_one(self, efficiency: float = EFFICIENCY) -> float:
        """Seconds of an update of one replica, from FLOP and bytes and the rates of one core."""
        work = Workload(get_preset(MODEL).architecture, CLASSES, IMAGES, SIZE, "float32")
        core = Accelerator("core", {"float32": self.flops}, 0, self.bandwidth, 0, 1, 0, 0, "")
        return compute_time(work, core, IMAGES, efficiency)

    def text(self) -> str:
        """A table of what was measured and what the model says."""
        one = self.predicted_one()
        rows = [*self.wall.rows("wall clock", one), *self.processor.rows("processor", one)]
        header = ("time by", "", "an update, ms", "least to most", "model", "off")
        return "\n\n".join(
            [
                f"{MODEL} at {SIZE}², {IMAGES} images a replica, float32, "
                f"{len(self.wall.one)} rounds",
                table(header, rows, "llrrrr"),
                f"Images/s of two replicas over one's: {self.wall.gains()} by the wall clock, "
                f"{self.processor.gains()} by the processor's.\n"
                f"One core: {self.flops / 1e9:.1f} GFLOP/s in products, "
                f"{self.bandwidth / 1e9:.1f} GB/s in memory, {self.decode:.0f} images/s decoded "
                f"and cropped to 224² ({self.jpeg_bytes / 1000:.0f} kB each).\n"
                f"Were convolutions as fast as these products, and not {100 * EFFICIENCY:.0f} % of "
                f"that, one replica's update would take {1000 * self.predicted_one(1.0):.1f} ms.\n"
                f"Load average {self.load:.1f} on {os.cpu_count()} cores at the end; the clocks "
                "agree on a quiet machine.",
            ]
        )


def _row(clock: str, what: str, values: list[float], predicted: float | None) -> tuple[str, ...]:
    middle, spread = median(values), f"{1000 * min(values):.1f} to {1000 * max(values):.1f}"
    if predicted is None:
        return clock, what, f"{1000 * middle:.1f}", spread, "", ""
    off = f"{100 * (predicted / middle - 1):+.0f} %"
    return clock, what, f"{1000 * middle:.1f}", spread, f"{1000 * predicted:.1f}", off


class _Worker:
    """A process that may use some cores, and does one round of its task at every call."""

    def __init__(self, task: str, cores: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="bit-keras-bench-")
        command = [sys.executable, "-m", "bit_keras.scaling_worker", task, str(cores)]
        self._process = subprocess.Popen(
            [*command, self._folder.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self) -> dict[str, float]:
        told, heard = self._process.stdin, self._process.stdout
        line = ""
        if told and heard:
            with contextlib.suppress(BrokenPipeError):
                told.write("\n")
                told.flush()
            line = heard.readline()
        if not line:
            raise OSError(f"A measuring process ended with status {self._process.wait()}.")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()


def measure(rounds: int = 10) -> Measured:
    """Measures one and two replicas in turns on two cores of this machine.

    Args:
        rounds: turns, after one that does not count.

    Raises:
        OSError: where processes cannot be kept to cores, or with fewer than two.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    if cores < 2:
        raise OSError(
            "The check gives each of two replicas a core of its own, for which it needs Linux and "
            f"two cores; this process may use {cores}."
        )
    probe, one, two = _Worker("probe", 1), _Worker("train", 1), _Worker("train", 2)
    try:
        for worker in (probe, one, two):
            worker()
        found = [(probe(), one(), two()) for _ in range(rounds)]
    finally:
        for worker in (probe, one, two):
            worker.close()

    probes, ones, twos = (list(of_all) for of_all in zip(*found, strict=True))

    def rate(name: str) -> float:
        return median(p[name] for p in probes)

    def times(clock: str) -> Times:
        sums = [two[f"all_reduce_{clock}"] for two in twos]
        return Times([o[clock] for o in ones], [t[clock] for t in twos], sums)

    return Measured(
        flops=rate("flops"),
        bandwidth=rate("bandwidth"),
        decode=rate("decode"),
        jpeg_bytes=int(rate("jpeg_bytes")),
        wall=times("wall"),
        processor=times("processor"),
        load=os.getloadavg()[0],
    )
