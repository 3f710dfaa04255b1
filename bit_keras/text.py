"""Plain text for terminals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], right: str = "") -> str:
    """A plain-text table with aligned columns.

    Args:
        header: names of the columns.
        rows: cells, shown with `str`.
        right: one character a column, "r" for those that are aligned to the right.

    Example:
        >>> print(table(("name", "n"), [("cat", 7)], "lr"))
        name  n
        ----  -
        cat   7
    """
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    sides = right.ljust(len(widths), "l")
    lines = (
        "  ".join(
            cell.rjust(width) if side == "r" else cell.ljust(width)
            for cell, width, side in zip(row, widths, sides, strict=True)
        )
        for row in cells
    )
    return "\n".join(line.rstrip() for line in lines)
