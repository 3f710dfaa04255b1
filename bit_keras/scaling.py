"""How fast a pre-training runs on 1 to 4096 accelerators, from arithmetic alone; no TensorFlow.

A step is what `update.Update` does: every replica computes its share of the batch, the gradients
are summed over all replicas, then every replica takes the same step; nothing overlaps. Computing
takes the time of the matrix products, plus that of the tensors that travel to and from memory
between them. docs/scaling.md explains the model and says how far it is from what was measured.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from bit_keras.accelerators import Accelerator
from bit_keras.workload import ACTIVATION_BYTES, Workload, memory_bytes

# Share of the peak that matrix products reach; a round number, not fitted.
EFFICIENCY = 0.5
# How often an element of a convolution's output is read or written. Forward: written, read for the
# norm's statistics, read and written by norm and ReLU, read by the next convolution. Backward:
# twice that.
FORWARD_PASSES, BACKWARD_PASSES = 5, 10
# The same for an element of a kernel. Once an update, whatever the micro-batches: standardising
# reads it three times and writes it, and later reads its gradient twice with the kernel and writes;
# weight, gradient and momentum are read, weight and momentum written, both norms of the records
# read one. In every micro-batch: convolutions read it forward, read it backward and write its
# gradient, which is added to a sum when there are several. Rematerialisation reads again, and
# standardises again where micro-batches do not share the standardised kernels.
KERNEL_UPDATE, KERNEL_FORWARD, KERNEL_BACKWARD, KERNEL_SUM = 9 + 7, 1, 2, 3
KERNEL_AGAIN = 4
USABLE_MEMORY = 0.9  # the rest is the runtime's


def compute_time(
    work: Workload, accelerator: Accelerator, images: float, efficiency: float = EFFICIENCY
) -> float:
    """Seconds in which one accelerator does its part of an update, without the sum over all.

    Args:
        work: of all accelerators.
        accelerator: one of them.
        images: its share of the batch.
        efficiency: share of the peak that matrix products reach.
    """
    again = 1 if work.remat else 0
    products = work.flops(images) / (accelerator.peak_for(work.precision) * efficiency)
    elements = work.architecture.activations(work.image_size) * images
    passes = (1 + again) * FORWARD_PASSES + BACKWARD_PASSES
    traffic = elements * passes * ACTIVATION_BYTES[work.precision]
    of_part = (1 + again) * KERNEL_FORWARD + KERNEL_BACKWARD
    if work.microbatches > 1:
        of_part += KERNEL_SUM
    elif work.remat:
        of_part += KERNEL_AGAIN
    of_kernels = work.microbatches * of_part + KERNEL_UPDATE
    traffic += work.gradient_bytes * of_kernels
    return products + traffic / accelerator.memory_bandwidth


def ring_bytes(count: int, size: float) -> float:
    """Bytes that each of `count` members sends to sum `size` bytes over all, in a ring.

    Source: Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms".

    Example:
        >>> ring_bytes(4, 100)
        150.0
    """
    return 2 * (count - 1) / count * size


def all_reduce_time(size: float, accelerators: int, accelerator: Accelerator) -> float:
    """Seconds to sum `size` bytes over all accelerators.

    A ring within each group; then the groups, each with its members' parts in parallel, exchange
    over their uplinks.

    Example:
        >>> from bit_keras.accelerators import get_accelerator
        >>> all_reduce_time(1e9, 1, get_accelerator("A100"))
        0.0
    """
    members = min(accelerators, accelerator.group)
    groups = -(-accelerators // accelerator.group)
    seconds = 0.0
    if members > 1:
        side = members ** (1 / (accelerator.dimensions or 1))
        hops = 2 * (accelerator.dimensions or 1) * (side - 1)
        seconds += ring_bytes(members, size) / accelerator.link + hops * accelerator.latency
    if groups > 1:
        hops = 2 * math.ceil(math.log2(groups))  # trees, as NCCL has for so many
        seconds += ring_bytes(groups, size) / accelerator.uplink
        seconds += hops * accelerator.uplink_latency
    return seconds


@dataclass(frozen=True)
class Step:
    """One update on a number of accelerators.

    Attributes:
        work: with the micro-batches and the rematerialisation that make it fit.
        accelerators: how many.
        compute: seconds of computing.
        all_reduce: seconds of summing the gradients.
        memory: bytes of one accelerator.
        efficiency: images/s against as many times one accelerator with unlimited memory.
        utilisation: useful FLOP (without rematerialisation) against the peak of all.
    """

    work: Workload
    accelerators: int
    compute: float
    all_reduce: float
    memory: float
    efficiency: float
    utilisation: float

    @property
    def seconds(self) -> float:
        """Of the whole update."""
        return self.compute + self.all_reduce

    @property
    def images_per_second(self) -> float:
        """Over all accelerators."""
        return self.work.batch_size / self.seconds


def _share(work: Workload, count: int) -> int:
    if count < 1 or work.batch_size % (count * work.microbatches):
        raise ValueError(
            f"A batch of {work.batch_size} cannot be shared equally by {count} accelerators with "
            f"{work.microbatches} micro-batches each."
        )
    return work.batch_size // count


def step_time(
    work: Workload, accelerator: Accelerator, count: int, efficiency: float = EFFICIENCY
) -> Step:
    """The time of one update with the settings as they are, whether they fit or not.

    Args:
        work: over all accelerators.
        accelerator: what each of them is.
        count: how many there are.
        efficiency: share of the peak that matrix products reach.

    Raises:
        ValueError: for a batch that so many accelerators cannot share.

    Example:
        >>> from bit_keras.accelerators import get_accelerator
        >>> from bit_keras.presets import Architecture
        >>> work = Workload(Architecture(50, 1), 1000, precision="float32")
        >>> round(step_time(work, get_accelerator("TPUv3"), 128).seconds, 3)
        0.079
    """
    share = _share(work, count)
    alone = dataclasses.replace(work, microbatches=1, remat=False)
    best = compute_time(alone, accelerator, work.batch_size, efficiency)
    compute = compute_time(work, accelerator, share, efficiency)
    all_reduce = all_reduce_time(work.gradient_bytes, count, accelerator)
    seconds = compute + all_reduce
    peak = accelerator.peak_for(work.precision) * count
    return Step(
        work=work,
        accelerators=count,
        compute=compute,
        all_reduce=all_reduce,
        memory=memory_bytes(work, count),
        efficiency=best / (count * seconds),
        utilisation=alone.flops(work.batch_size) / (peak * seconds),
    )


def fastest_step(
    work: Workload, accelerator: Accelerator, count: int, efficiency: float = EFFICIENCY
) -> Step | None:
    """The fastest update that fits, by micro-batches and rematerialisation; None when none does.

    Args:
        work: over all accelerators; its own micro-batches and rematerialisation do not count.
        accelerator: what each of them is.
        count: how many there are.
        efficiency: share of the peak that matrix products reach.

    Raises:
        ValueError: for a batch that so many accelerators cannot share.
    """
    share = _share(dataclasses.replace(work, microbatches=1), count)
    twos = (share & -share).bit_length()  # 1, 2, 4, … parts, as often as the share can be halved
    steps = [
        step_time(
            dataclasses.replace(work, microbatches=2**power, remat=remat),
            accelerator,
            count,
            efficiency,
        )
        for power in range(twos)
        for remat in (False, True)
    ]
    fitting = [s for s in steps if s.memory <= USABLE_MEMORY * accelerator.memory]
    return min(fitting, key=lambda s: s.seconds, default=None)
