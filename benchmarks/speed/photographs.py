"""JPEG files like those of ILSVRC-2012, made of noise."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 500, 375  # pixels, what most of ILSVRC-2012's have


def photograph(rng: np.random.Generator) -> bytes:
    """A JPEG file with detail at every scale, as photographs have: noise of spectrum 1/f."""
    frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.fftfreq(WIDTH)) + 1 / WIDTH
    planes = []
    for _ in range(3):
        noise = np.fft.fft2(rng.standard_normal((HEIGHT, WIDTH)))
        plane = np.fft.ifft2(noise / frequency).real
        planes.append(128 + 45 * plane / plane.std())
    pixels = np.clip(np.stack(planes, -1), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_folder(folder: Path, images: int, classes: int, seed: int = 0) -> float:
    """Writes FOLDER/class_K/N.jpg, every class as often; returns the mean size of a file in bytes.

    Args:
        folder: for the class folders.
        images: in all of them together.
        classes: how many.
        seed: of the noise.
    """
    rng = np.random.default_rng(seed)
    total = 0
    for i in range(images):
        path = folder / f"class_{i % classes}" / f"{i:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        total += path.write_bytes(photograph(rng))
    return total / images
