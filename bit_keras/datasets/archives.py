"""The images in the tar file of a synset: read once, judged and put into a split."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from bit_keras.images import ImageError, decode_image

HELD_OUT = 256  # one image in so many is of the validation split: 55,000 of 14.2 million
TRAIN, VALIDATION = "train", "validation"


@dataclass(frozen=True)
class Archive:
    """A tar file of one synset.

    Attributes:
        path: local or gs://.
        synset: its WordNet id, "n01440764".
        labels: the classes of its images: the synset, and its hypernyms that are classes.
    """

    path: str
    synset: str
    labels: tuple[str, ...]


def split_of(name: str) -> str:
    """The split of an image by the hash of its name: the same in every run and on every machine.

    Example:
        >>> split_of("n01440764/n01440764_10026.JPEG")
        'train'
    """
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return VALIDATION if number % HELD_OUT == 0 else TRAIN


def usable(data: bytes) -> bytes:
    """An image file that TensorFlow decodes: JPEG and PNG as they are, others anew as PNG.

    Raises:
        ImageError: when the image cannot be decoded.
    """
    pixels = decode_image(data)
    if data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")):
        return data
    return _png(pixels)


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def read_archive(archive: Archive) -> Iterator[tuple[str, Any]]:
    """The images of an archive, read once from its beginning to its end.

    Yields:
        ("train" or "validation", (name, example)), and ("skipped", (name, reason)) for what cannot
        be used. The name is SYNSET/FILE; that of a damaged archive, whose rest is lost, its path.
    """
    from etils import epath

    with epath.Path(archive.path).open("rb") as file:
        try:
            with tarfile.open(fileobj=file, mode="r|") as tar:
                for member in tar:
                    content = tar.extractfile(member) if member.isreg() else None
                    if content is not None:
                        name = f"{archive.synset}/{member.name.rpartition('/')[2]}"
                        yield _judged(name, content.read(), archive.labels)
        except (tarfile.TarError, EOFError) as error:
            yield "skipped", (archive.path, f"damaged archive: {error}")


def _judged(name: str, data: bytes, labels: tuple[str, ...]) -> tuple[str, Any]:
    try:
        image = io.BytesIO(usable(data))
    except ImageError as error:
        return "skipped", (name, str(error))
    return split_of(name), (name, {"image": image, "labels": list(labels), "name": name})
