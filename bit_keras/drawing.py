"""What all pictures have in common: colours, axes, and how a file is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from bit_keras.files import replacing

INK, MUTED, BLUE, ORANGE = "#1f2933", "#7b8794", "#2563eb", "#d9480f"
# Names of classes and files are text, also those with a $ in them.
PLAIN_TEXT = {"text.parse_math": False}


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG that is there whole or not at all."""
    with replacing(path) as partial:
        figure.savefig(partial, dpi=144, facecolor="white", format="png")


def plain(axes: Any) -> None:
    """Takes ornament from a pair of axes."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=MUTED, labelcolor=INK)
    axes.grid(alpha=0.25)


def logarithmic(axes: Any) -> None:
    """Makes the y axis logarithmic, with plain numbers and not formulas at its ticks."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
