"""Decoding of image files that nobody vouches for, with Pillow and without TensorFlow.

The pixels equal those that `bit_keras.preprocess.decode_bytes` computes inside a served module.
"""

from __future__ import annotations

import io
import re
import threading

import numpy as np
from PIL import Image, UnidentifiedImageError

# Pillow's own limit, a quarter of a gigabyte of RGB. OpenClipart has PNG files of 231 to 623
# megapixels, which weigh a few hundred kilobytes.
MAX_PIXELS = 89_478_485

# Only formats that are decoded in process: Pillow would start Ghostscript for EPS.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")


class ImageError(ValueError):
    """An image that cannot be used; the message is a short reason, such as "truncated"."""


def decode_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decodes one image file to RGB.

    The size is read from the header and checked before anything is decoded. Grey, palette, 1-bit
    and CMYK images are converted, transparent ones composited onto white, 16-bit channels reduced
    to their high byte (as libpng and TensorFlow do), and animations cut to their first frame. The
    EXIF orientation of a JPEG is ignored, as TensorFlow and the reference code do: evaluation and
    a served module see the same picture.

    Args:
        data: the content of a JPEG, PNG, GIF, BMP, WebP, TIFF or PPM file.
        max_pixels: larger images are refused. Pillow refuses more than twice the default anyway.

    Returns:
        [height, width, 3] uint8, 0 to 255.

    Raises:
        ImageError: "empty file", "not an image", "truncated", "231 megapixels, limit 89.5" and
            the like.

    Example:
        >>> import io, PIL.Image
        >>> file = io.BytesIO()
        >>> PIL.Image.new("L", (4, 2), 7).save(file, "PNG")
        >>> decode_image(file.getvalue())[0, 0]
        array([7, 7, 7], dtype=uint8)
    """
    if not data:
        raise ImageError("empty file")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ImageError(_too_large(width * height, max_pixels))
            image.load()
            return _to_rgb(image)
    except ImageError:
        raise
    except Exception as error:  # Pillow's readers raise nearly anything on malformed data
        raise ImageError(_reason(error, max_pixels)) from error


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):
        return _grey16_to_rgb(image)
    if image.mode == "F":
        raise ImageError("floating-point pixels, which have no agreed range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(image, mask=image.getchannel("A"))  # rounds to nearest
        image = white
    return np.array(image.convert("RGB"))


def _grey16_to_rgb(image: Image.Image) -> np.ndarray:
    """16-bit grey by the high byte; Pillow's own conversion would clip at 255."""
    # Older Pillow opens 16-bit PNG as 32-bit "I"; a 32-bit TIFF may hold anything.
    if image.mode == "I" and image.format not in ("PNG", "PPM"):
        raise ImageError("32-bit pixels, which have no agreed range")
    values = np.asarray(image)
    grey = (values >> 8).astype(np.uint8)
    if "transparency" in image.info:
        grey[values == image.info["transparency"]] = 255
    return np.repeat(grey[..., None], 3, axis=-1)


def _too_large(pixels: int, max_pixels: int) -> str:
    return f"{pixels / 1e6:.3g} megapixels, limit {max_pixels / 1e6:.3g}"


def _reason(error: Exception, max_pixels: int) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, Image.DecompressionBombError):  # raised before we see the size
        found = re.search(r"\((\d+) pixels\)", str(error))
        return _too_large(int(found[1]), max_pixels) if found else "too many pixels"
    if "truncated" in str(error).lower():
        return "truncated"
    return f"damaged: {error}"


class SkippedFiles:
    """The files that were left out and why; each name once. Threads may share one.

    Example:
        >>> skipped = SkippedFiles()
        >>> skipped.add("cat/1.png", "truncated")
        >>> skipped.summary()
        '1 file skipped: cat/1.png (truncated)'
    """

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}
        self._lock = threading.Lock()

    def add(self, name: str, reason: str) -> None:
        """Records a file; the first reason of a name stands."""
        with self._lock:
            self._reasons.setdefault(name, reason)

    def __len__(self) -> int:
        return len(self._reasons)

    @property
    def reasons(self) -> dict[str, str]:
        """Name → reason, in the order of the names."""
        with self._lock:
            return dict(sorted(self._reasons.items()))

    @property
    def names(self) -> list[str]:
        """The names, sorted."""
        return list(self.reasons)

    def summary(self, limit: int = 10) -> str:
        """A sentence with the count and the first `limit` names with their reasons."""
        reasons = self.reasons
        if not reasons:
            return "no files skipped"
        shown = [f"{name} ({reason})" for name, reason in list(reasons.items())[:limit]]
        more = len(reasons) - len(shown)
        if more:
            shown.append(f"and {more} more")
        files = "1 file" if len(reasons) == 1 else f"{len(reasons)} files"
        return f"{files} skipped: {', '.join(shown)}"
