"""The picture of `bit-keras bench --scaling`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from bit_keras.accelerators import Accelerator
from bit_keras.drawing import INK, MUTED, plain, save
from bit_keras.presets import Architecture
from bit_keras.scaling import EFFICIENCY
from bit_keras.scaling_report import steps_of
from bit_keras.workload import Workload

_COUNTS = [2**power for power in range(13)]
_TICKS = [1, 8, 64, 512, 4096]


def _number(value: float, _: Any = None) -> str:
    return f"{value:,.0f}"


def plot_scaling(
    work: Workload,
    accelerator: Accelerator,
    architectures: Sequence[Architecture],
    path: Path,
    efficiency: float = EFFICIENCY,
) -> Path:
    """Draws images/s and efficiency of architectures on 1 to 4096 accelerators.

    Args:
        work: all but the architecture.
        accelerator: what each of them is.
        architectures: what to draw, the cheapest first.
        path: the PNG file to write.
        efficiency: share of the peak that matrix products reach.
    """
    figure = Figure(figsize=(12, 5.2))
    figure.set_layout_engine("constrained", wspace=0.04)
    speed, share = figure.subplots(1, 2)
    for index, architecture in enumerate(architectures):
        color = colormaps["viridis"](0.92 * index / max(1, len(architectures) - 1))
        of_this = dataclasses.replace(work, architecture=architecture)
        found = steps_of(of_this, accelerator, _COUNTS, None, efficiency)
        steps = [step for step in found.values() if step]
        counts = [step.accelerators for step in steps]
        style: dict[str, Any] = {"color": color, "marker": "o", "markersize": 3, "linewidth": 1.6}
        label = str(architecture)
        speed.plot(counts, [step.images_per_second for step in steps], label=label, **style)
        share.plot(counts, [100 * step.efficiency for step in steps], **style)
    _axes(speed, share)
    figure.suptitle(
        f"{accelerator.name}, batches of {work.batch_size:,} at {work.image_size}², "
        f"{work.precision}, computed, not measured",
        color=INK,
    )
    save(figure, path)
    return path


def _axes(speed: Any, share: Any) -> None:
    speed.set_yscale("log")
    speed.set_title("Images a second", loc="left", fontsize=10, color=INK)
    speed.yaxis.set_major_formatter(FuncFormatter(_number))
    speed.legend(fontsize=9, labelcolor=INK, edgecolor="none", loc="upper left")
    share.set_title(
        "Efficiency, % of as many times one with unlimited memory", loc="left", fontsize=10,
        color=INK,
    )  # fmt: skip
    share.set_ylim(0, 105)
    for axes in (speed, share):
        axes.set_xscale("log", base=2)
        axes.set_xticks(_TICKS)
        axes.xaxis.set_major_formatter(FuncFormatter(_number))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("accelerators", color=INK)
        axes.axvline(512, color=MUTED, linewidth=0.9, linestyle=(0, (3, 3)))
        axes.annotate(
            " the paper's 512", (512, 0.02), xycoords=("data", "axes fraction"), fontsize=8,
            color=MUTED,
        )  # fmt: skip
        plain(axes)
