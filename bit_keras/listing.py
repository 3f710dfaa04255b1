"""The table that `bit-keras models` prints."""

from __future__ import annotations

from bit_keras.download import WEIGHTS_VARIABLE
from bit_keras.presets import PRESETS, Preset
from bit_keras.pretrained import local_weights
from bit_keras.text import table


def _weights(preset: Preset) -> str:
    if preset.filename is None:
        return f"no: {preset.unavailable}"
    try:
        found = local_weights(preset.filename)
    except OSError:
        return f"{WEIGHTS_VARIABLE} names a place that does not exist"
    return "yes, on this machine" if found else "yes, to be downloaded"


def models_table() -> str:
    """All presets with size, cost, upstream data and whether their weights can be had."""
    rows = [
        (
            preset.name,
            f"{preset.architecture.parameters(preset.num_classes) / 1e6:,.1f}",
            f"{preset.architecture.gmacs():.2f}",
            preset.architecture.features,
            f"{preset.num_classes:,}",
            preset.upstream,
            _weights(preset),
        )
        for preset in PRESETS.values()
    ]
    header = ("name", "params, M", "GMACs", "features", "classes", "upstream data", "weights")
    notes = (
        "\nParameters with the head of the upstream classes; GMACs of the convolutions for one "
        "image at 224×224."
    )
    return table(header, rows, "lrrrrll") + notes
