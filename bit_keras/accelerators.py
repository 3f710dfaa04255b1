"""Accelerators by name: speed, memory and links as their makers publish them, no TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_GIB = 2**30


@dataclass(frozen=True)
class Accelerator:
    """What one replica runs on; all figures are for one of them.

    Attributes:
        name: e.g. "A100".
        peak: FLOP/s of matrix products by precision.
        memory: bytes.
        memory_bandwidth: bytes/s.
        link: bytes/s that it sends to the others of its group, all links together.
        group: how many are joined by such links: a host with NVLink, a TPU pod.
        uplink: bytes/s that a whole group sends to other groups.
        dimensions: of the torus that a group is; 0 where a switch joins all with all.
        source: where the figures are from.
        latency: seconds from one to the next within a group; no maker says, this is assumed.
        uplink_latency: seconds from group to group; assumed.
    """

    name: str
    peak: Mapping[str, float]
    memory: float
    memory_bandwidth: float
    link: float
    group: int
    uplink: float
    dimensions: int
    source: str
    latency: float = 2e-6
    uplink_latency: float = 10e-6

    def peak_for(self, precision: str) -> float:
        """FLOP/s in a precision.

        Raises:
            ValueError: for one that it has no units for.
        """
        if precision not in self.peak:
            raise ValueError(
                f"{self.name} has no units for {precision}. Pass --precision="
                f"{' or --precision='.join(self.peak)}."
            )
        return self.peak[precision]


# TensorFlow gives a TPU v3 chip two replicas, one a core, so that a core is the accelerator here.
# float32 is what TensorFlow does when asked for it: bfloat16 products on a TPU, TF32 on A100 and
# H100, true float32 on V100.
ACCELERATORS = {
    found.name: found
    for found in (
        Accelerator(
            name="TPUv3",
            peak={"bfloat16": 123e12 / 2, "float32": 123e12 / 2},
            memory=32 * _GIB / 2,
            memory_bandwidth=900e9 / 2,
            link=4 * 70e9 / 2,
            group=2 * 1024,
            uplink=128 * 12.5e9,
            dimensions=2,
            source="half a chip (one core) of cloud.google.com/tpu/docs/v3; links and 8 chips a "
            "host: Jouppi et al. 2023, arXiv 2304.01433, table 4; 100 Gbit/s a host between pods: "
            "assumed",
        ),
        Accelerator(
            name="TPUv4",
            peak={"bfloat16": 275e12, "float32": 275e12},
            memory=32 * _GIB,
            memory_bandwidth=1200e9,
            link=6 * 50e9,
            group=4096,
            uplink=1024 * 12.5e9,
            dimensions=3,
            source="a chip of cloud.google.com/tpu/docs/v4; links and 4 chips a host: Jouppi et "
            "al. 2023, arXiv 2304.01433, table 4; 100 Gbit/s a host between pods: assumed",
        ),
        Accelerator(
            name="V100",
            peak={"float16": 125e12, "float32": 15.7e12},
            memory=32e9,
            memory_bandwidth=900e9,
            link=150e9,
            group=8,
            uplink=4 * 12.5e9,
            dimensions=0,
            source="V100 SXM2 32 GB: NVIDIA V100 data sheet; 8 and 4 × 100 Gbit/s a host: DGX-1 "
            "data sheet",
        ),
        Accelerator(
            name="A100",
            peak={"bfloat16": 312e12, "float16": 312e12, "float32": 156e12},
            memory=80e9,
            memory_bandwidth=2039e9,
            link=300e9,
            group=8,
            uplink=8 * 25e9,
            dimensions=0,
            source="A100 SXM 80 GB: NVIDIA A100 data sheet; 8 and 8 × 200 Gbit/s a host: DGX A100 "
            "data sheet",
        ),
        Accelerator(
            name="H100",
            peak={"bfloat16": 989.4e12, "float16": 989.4e12, "float32": 494.7e12},
            memory=80e9,
            memory_bandwidth=3350e9,
            link=450e9,
            group=8,
            uplink=8 * 50e9,
            dimensions=0,
            source="H100 SXM 80 GB, without sparsity: NVIDIA H100 data sheet; 8 and 8 × 400 Gbit/s "
            "a host: DGX H100 data sheet",
        ),
    )
}


def get_accelerator(name: str) -> Accelerator:
    """The row of the table called `name`, in any case.

    Raises:
        ValueError: for another name, listing all.

    Example:
        >>> get_accelerator("a100").memory
        80000000000.0
    """
    for found in ACCELERATORS.values():
        if found.name.lower() == name.lower():
            return found
    raise ValueError(f"There is no accelerator {name!r}. There are: {', '.join(ACCELERATORS)}.")
