"""What `bit-keras bench` prints."""

from __future__ import annotations

from pathlib import Path

from bit_keras.accelerators import get_accelerator
from bit_keras.bench_options import ALL, BenchOptions
from bit_keras.presets import get_preset
from bit_keras.published import published_table
from bit_keras.scaling_report import ARCHITECTURES, architectures_table, input_table, steps_table
from bit_keras.upstream import pretrain_recipe
from bit_keras.workload import Workload

OFFER = """\
Nothing to do. There are:
  bit-keras bench --scaling --accelerator=TPUv3 --model=BiT-L-R152x4   one model on 1 to 4096
  bit-keras bench --scaling --accelerator=A100                         all architectures
  bit-keras bench --published    the same arithmetic beside public training times
  bit-keras bench --measure      and beside one and two replicas on this machine
docs/scaling.md explains them."""


def bench(options: BenchOptions) -> str:
    """Runs what the options ask for and returns the text to print.

    Raises:
        ValueError: for a batch that no number of accelerators can share.
        OSError: for a machine that cannot measure, or a picture that cannot be written.

    Example:
        >>> print(bench(BenchOptions()).splitlines()[0])
        Nothing to do. There are:
    """
    parts = []
    if options.scaling:
        parts.append(_scaling(options))
    if options.published:
        parts.append(published_table(options.efficiency))
    if options.measure:
        from bit_keras.measure_scaling import measure

        parts.append(measure(options.rounds).text())
    return "\n\n".join(parts) or OFFER


def _workload(options: BenchOptions, name: str) -> Workload:
    """What a preset's recipe makes of the options."""
    preset = get_preset(name)
    recipe = pretrain_recipe("-".join(name.split("-")[:2]))
    return Workload(
        preset.architecture,
        recipe.num_classes,
        options.batch_size or recipe.batch_size,
        options.image_size or recipe.image_size,
        options.precision,
    )


def _scaling(options: BenchOptions) -> str:
    accelerator = get_accelerator(options.accelerator)
    counts, images = options.accelerators, options.images
    one = _workload(options, "BiT-L-R50x1" if options.model == ALL else options.model)
    parts = []
    if options.model == ALL:
        parts.append(architectures_table(one, accelerator, counts, images, options.efficiency))
    else:
        parts.append(steps_table(one, accelerator, counts, images, options.efficiency))
        parts.append(input_table(one, accelerator, counts, images, options.efficiency))
    if options.picture:
        from bit_keras.scaling_picture import plot_scaling

        path = Path(options.picture)
        plot_scaling(one, accelerator, ARCHITECTURES, path, options.efficiency)
        parts.append(f"Picture: {path}")
    return "\n\n".join(parts)
