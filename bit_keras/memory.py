"""How much memory an update takes, so that a batch that cannot fit is refused before it starts."""

from __future__ import annotations

import os
from pathlib import Path

from bit_keras.presets import Architecture

# Bytes kept for the gradient per element of the convolutions' outputs, and per parameter (weight,
# gradient, momentum), measured in float32: R50x1 at 224 takes about 87 MB an image.
BYTES_PER_ACTIVATION = 8
BYTES_PER_PARAMETER = 12
_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


def update_bytes(architecture: Architecture, size: int, batch_size: int) -> int:
    """Rough memory of one update in float32, bytes.

    Example:
        >>> update_bytes(Architecture(50, 1), 224, 8) // 10**6
        993
    """
    images = BYTES_PER_ACTIVATION * architecture.activations(size) * batch_size
    return images + BYTES_PER_PARAMETER * architecture.parameters()


def machine_bytes() -> int | None:
    """Memory of this machine or container, or None where the system does not tell."""
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    try:
        return min(physical, int(_CONTAINER_LIMIT.read_text()))
    except (OSError, ValueError):  # no such file, or "max"
        return physical


def check_fits(
    architecture: Architecture, size: int, batch_size: int, available: int | None
) -> None:
    """Refuses a batch that needs more memory than there is.

    Args:
        architecture: what is trained.
        size: side of the training images, pixels.
        batch_size: examples of one update.
        available: bytes; None when unknown, and then nothing is refused.

    Raises:
        ValueError: with the largest batch size, a power of two, that should fit.
    """
    needed = update_bytes(architecture, size, batch_size)
    if available is None or needed <= available:
        return
    fitting = batch_size
    while fitting > 1 and update_bytes(architecture, size, fitting) > 0.6 * available:
        fitting = 2 ** ((fitting - 1).bit_length() - 1)
    raise ValueError(
        f"One update of {architecture} with {batch_size} images of {size}×{size} needs about "
        f"{needed / 1e9:.0f} GB of memory, and this machine has {available / 1e9:.0f} GB. Pass "
        f"--batch_size={fitting} (the rule's learning rate and steps follow), or a smaller --crop."
    )
