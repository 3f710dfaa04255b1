"""The tables of `bit-keras bench --scaling`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from bit_keras.accelerators import Accelerator
from bit_keras.presets import PRESETS, Architecture
from bit_keras.scaling import EFFICIENCY, USABLE_MEMORY, Step, compute_time, fastest_step
from bit_keras.text import table
from bit_keras.workload import PARAMETER_BYTES, Workload, memory_bytes

ARCHITECTURES: tuple[Architecture, ...] = tuple(
    sorted({p.architecture for p in PRESETS.values()}, key=lambda a: a.gmacs())
)
# 147,897,477,120 bytes of ILSVRC2012_img_train.tar over 1,281,167 images; JFT's are not known.
JPEG_BYTES = 115_440
JFT_IMAGES = 300e6
# Images/s that one core decodes and crops, as `bit-keras bench --measure` found; docs/scaling.md.
DECODE_RATE = 200.0


def steps_of(
    work: Workload,
    accelerator: Accelerator,
    counts: Sequence[int],
    images: int | None,
    efficiency: float,
) -> dict[int, Step | None]:
    """The fastest update that fits for each number of accelerators that can share the batch.

    Args:
        work: over all accelerators.
        accelerator: what each of them is.
        counts: numbers of them.
        images: of each accelerator, so that the batch grows, and efficiency compares with one that
            computes as many; None for the work's own batch.
        efficiency: share of the peak that matrix products reach.

    Raises:
        ValueError: when none of the numbers can share the batch.
    """
    found = {}
    for count in counts:
        size = images * count if images else work.batch_size
        if size % count == 0:
            sized = dataclasses.replace(work, batch_size=size)
            step = fastest_step(sized, accelerator, count, efficiency)
            if step and images:
                alone = compute_time(sized, accelerator, images, efficiency)
                step = dataclasses.replace(step, efficiency=alone / step.seconds)
            found[count] = step
    if not found:
        raise ValueError(
            f"A batch of {work.batch_size} cannot be shared equally by any of {list(counts)} "
            "accelerators. Pass --batch_size=N or --images=N."
        )
    return found


def _title(work: Workload, accelerator: Accelerator, images: int | None) -> str:
    batch = f"{images} images each" if images else f"batches of {work.batch_size:,}"
    return f"{work.image_size}², {batch}, {work.precision}, {accelerator.name}"


def _duration(seconds: float) -> str:
    return f"{1000 * seconds:,.1f} ms" if seconds < 1 else f"{seconds:,.2f} s"


def _thousands(rate: float) -> str:
    """Three digits of a rate, which is more than the model is worth."""
    return f"{float(f'{rate:.3g}'):,.0f}"


def _row(count: int, step: Step | None) -> tuple[str, ...]:
    if step is None:
        return (f"{count:,}", "does not fit", *[""] * 7)
    return (
        f"{count:,}",
        _duration(step.seconds),
        _duration(step.all_reduce),
        _thousands(step.images_per_second),
        f"{100 * step.efficiency:.0f} %",
        f"{100 * step.utilisation:.0f} %",
        f"{step.memory / 1e9:.1f} GB",
        str(step.work.microbatches),
        "yes" if step.work.remat else "no",
    )


def steps_table(
    work: Workload,
    accelerator: Accelerator,
    counts: Sequence[int],
    images: int | None = None,
    efficiency: float = EFFICIENCY,
) -> str:
    """Time, speed and memory of one model on several numbers of accelerators."""
    steps = steps_of(work, accelerator, counts, images, efficiency)
    header = ("n", "step", "all-reduce", "images/s", "efficiency", "of peak", "memory",
              "micro-batches", "remat")  # fmt: skip
    rows = [_row(count, step) for count, step in steps.items()]
    state, with_image = (memory_bytes(dataclasses.replace(work, batch_size=n)) for n in (0, 1))
    usable = USABLE_MEMORY * accelerator.memory
    notes = (
        f"{work.forward_flops / 2e9:.2f} GMACs an image forward, {work.flops() / 1e9:,.1f} GFLOP "
        f"in training; {work.parameters / 1e6:,.1f} M parameters, {work.gradient_bytes / 1e9:.2f} "
        f"GB of gradients; {state / 1e9:.1f} GB of weights, gradients and momentum and "
        f"{(with_image - state) / 1e6:,.0f} MB an image, of {usable / 1e9:.1f} GB."
    )
    title = (
        f"{work.architecture}, {work.num_classes:,} classes, {_title(work, accelerator, images)}"
    )
    return f"{title}\n\n{table(header, rows, 'rrrrrrrrl')}\n\n{notes}"


def input_table(
    work: Workload,
    accelerator: Accelerator,
    counts: Sequence[int],
    images: int | None = None,
    efficiency: float = EFFICIENCY,
) -> str:
    """What the accelerators want of the input: cores that decode, and bytes/s to read and send."""
    # What a tf.data service sends: float32 pixels, and labels with a number for every class.
    decoded = 4 * (3 * work.image_size**2 + (work.num_classes or 0))
    steps = steps_of(work, accelerator, counts, images, efficiency)
    rows = [
        (
            f"{count:,}",
            _thousands(step.images_per_second),
            f"{step.images_per_second / DECODE_RATE:,.0f}",
            f"{step.images_per_second / DECODE_RATE / count:.3f}",
            f"{step.images_per_second * JPEG_BYTES / 1e9:,.2f}",
            f"{step.images_per_second * decoded / 1e9:,.2f}",
            f"{(hours := JFT_IMAGES / step.images_per_second / 3600):,.{1 if hours >= 1 else 2}f}",
        )
        for count, step in steps.items()
        if step is not None
    ]
    header = ("n", "images/s", "decoding cores", "for each", "JPEG GB/s", "decoded GB/s",
              "hours for JFT")  # fmt: skip
    checkpoint = 2 * PARAMETER_BYTES * work.parameters
    notes = (
        f"At {DECODE_RATE:g} images/s a core, {JPEG_BYTES / 1000:.0f} kB a JPEG and "
        f"{decoded / 1000:.0f} kB an image decoded with its labels. JFT's {JFT_IMAGES / 1e6:.0f} M "
        f"images are {JFT_IMAGES * JPEG_BYTES / 1e12:.1f} TB. A checkpoint (weights and momentum) "
        f"has {checkpoint / 1e9:.2f} GB."
    )
    return f"Input\n\n{table(header, rows, 'rrrrrrr')}\n\n{notes}"


def architectures_table(
    work: Workload,
    accelerator: Accelerator,
    counts: Sequence[int],
    images: int | None = None,
    efficiency: float = EFFICIENCY,
) -> str:
    """Step time and images/s of every architecture; `work` says all but the architecture."""
    rows = []
    for architecture in ARCHITECTURES:
        of_this = dataclasses.replace(work, architecture=architecture)
        steps = steps_of(of_this, accelerator, counts, images, efficiency)
        seconds = [_duration(s.seconds) if s else "–" for s in steps.values()]
        rates = [_thousands(s.images_per_second) if s else "–" for s in steps.values()]
        rows += [(str(architecture), "step", *seconds), ("", "images/s", *rates)]
    header = ("", "", *(f"{count:,}" for count in steps))
    title = f"{work.num_classes:,} classes, {_title(work, accelerator, images)}"
    notes = "–: does not fit, whatever the micro-batches, rematerialised or not."
    return f"{title}\n\n{table(header, rows, 'll' + 'r' * len(steps))}\n\n{notes}"
