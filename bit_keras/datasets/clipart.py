"""`clipart`: a small upstream set of drawings, from OpenClipart and Google's emoji."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from PIL import Image
from tqdm import tqdm

from bit_keras.datasets.fetch import EMOJI, OPENCLIPART, manual_commands
from bit_keras.datasets.hierarchy import (
    ROOT_DEPTH,
    Folders,
    all_classes,
    held_out,
    labels_of,
    leaf_classes,
)
from bit_keras.datasets.packages import Drawing, emoji, openclipart
from bit_keras.fingerprint import Fingerprints, content_box, fingerprint
from bit_keras.images import ImageError, decode_image
from bit_keras.sources import ASSETS

MAX_PIXELS = 16_000_000  # files of the package that weigh kilobytes have up to 623 megapixels
LONGEST_SIDE = 128
LEAST_FILLED = 0.25  # of the area, by the drawing
LEAST = 15  # images of a leaf class
VALIDATION = 0.07
EXCLUDE = "exclude.txt"
EMBEDDED = "openclipart-mini"
NEAR = "near-duplicate of an embedded image"


@dataclass(frozen=True)
class Example:
    """An image of the data set: PNG file, leaf class and the group that stays in one split."""

    name: str
    png: bytes
    leaf: Folders
    group: str


def small(pixels: np.ndarray) -> np.ndarray:
    """A drawing reduced to at most `LONGEST_SIDE` pixels a side, its aspect ratio kept.

    One that fills less than `LEAST_FILLED` of the image is cut out first, with a margin: it would
    be a dot otherwise.

    Args:
        pixels: uint8 [height, width, 3].
    """
    height, width, _ = pixels.shape
    rows, columns = content_box(pixels)
    tall, wide = rows.stop - rows.start, columns.stop - columns.start
    if tall * wide < LEAST_FILLED * height * width:
        margin = max(tall, wide) // 8
        pixels = pixels[
            max(0, rows.start - margin) : rows.stop + margin,
            max(0, columns.start - margin) : columns.stop + margin,
        ]
    image = Image.fromarray(pixels)
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return np.asarray(image)


def as_png(pixels: np.ndarray) -> bytes:
    """uint8 [height, width, 3] → the bytes of a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return file.getvalue()


def embedded_fingerprints() -> Fingerprints:
    """Those of all images of the embedded set, both splits."""
    paths = sorted((ASSETS / EMBEDDED).glob("*/*/*.png"))
    if not paths:
        raise FileNotFoundError(
            f"The embedded data set {EMBEDDED} is missing from {ASSETS}, and clipart must not hold "
            "what it holds. Install bit-keras again."
        )
    return Fingerprints([fingerprint(decode_image(path.read_bytes())) for path in paths])


class Selection:
    """Takes drawings one by one; says of each that it is new and fit, or counts why not.

    Attributes:
        dropped: rule → number of drawings that it dropped.
    """

    def __init__(self, excluded: set[str], held_out: Fingerprints) -> None:
        self.dropped: Counter[str] = Counter({NEAR: 0})  # said even when there are none
        self._excluded = excluded
        self._held_out = held_out
        self._seen: set[bytes] = set()

    def read(self, drawing: Drawing) -> bytes | None:
        """The drawing as a small PNG file on white, or None when a rule drops it."""
        rule, pixels = self._judge(drawing)
        if rule:
            self.dropped[rule] += 1
            return None
        return as_png(pixels)

    def _judge(self, drawing: Drawing) -> tuple[str, Any]:
        if drawing.name in self._excluded:
            return "exclusion list", None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # refused anyway
                original = decode_image(drawing.path.read_bytes(), max_pixels=MAX_PIXELS)
        except ImageError as error:
            logging.info("clipart: %s left out: %s", drawing.name, error)
            return ("too many pixels" if "megapixels" in str(error) else "undecodable"), None
        pixels = small(original)
        if pixels.min() == pixels.max():
            return "blank on white", None
        content = repr(pixels.shape).encode() + pixels.tobytes()
        if content in self._seen:
            return "exact duplicate", None
        self._seen.add(content)
        if self._held_out.like(fingerprint(original)):
            logging.info("clipart: %s left out: like an embedded image", drawing.name)
            return NEAR, None
        return "", pixels


def read_exclude(path: Path) -> set[str]:
    """The names in an exclusion list, the last column of each line; none without the file."""
    if not path.is_file():
        return set()
    lines = path.read_text(encoding="utf-8").splitlines()
    return {line.split("\t")[-1].strip() for line in lines if line and not line.startswith("#")}


def select(manual_dir: Path) -> tuple[list[Example], Counter[str]]:
    """The images of the data set, all splits.

    Args:
        manual_dir: holds the unpacked packages and, if wanted, `exclude.txt`.

    Returns:
        The examples in the order of packages and names, and rule → number of files it dropped.

    Raises:
        FileNotFoundError: when a package is not there.
    """
    selection = Selection(read_exclude(manual_dir / EXCLUDE), embedded_fingerprints())
    drawings: list[Drawing] = []
    for package, listed in ((OPENCLIPART, openclipart), (EMOJI, emoji)):
        found = list(listed(manual_dir / package.name, selection.dropped))
        if not found:
            raise FileNotFoundError(
                f"{manual_dir / package.name} holds no drawings. Unpack {package.name} there: "
                f"python -m bit_keras.datasets.fetch clipart {manual_dir}"
            )
        drawings += found
    bar = tqdm(drawings, desc="clipart", unit="drawings", disable=None)
    kept = [(drawing, png) for drawing in bar if (png := selection.read(drawing)) is not None]
    leaves = leaf_classes([drawing.folders for drawing, _ in kept], LEAST)
    selection.dropped["category too small"] = leaves.count(None)
    examples = [
        Example(drawing.name, png, leaf, drawing.group)
        for (drawing, png), leaf in zip(kept, leaves, strict=True)
        if leaf is not None
    ]
    return examples, selection.dropped


class Clipart(tfds.core.GeneratorBasedBuilder):
    """Drawings of the Open Clip Art Library and Google's emoji, on white, with a tree of classes.

    The folders of Debian's openclipart-png (public domain) and the categories and sub-categories of
    npm's emoji-datasource-google 16.0.0 (images Apache-2.0) are the classes, and every image has
    its category and its sub-category. A class with fewer than 15 images is merged into the one
    above it. Left out are stars and unsorted drawings, symbolic links, images too large, unreadable
    or blank, exact duplicates, what `exclude.txt` in manual_dir names (as `bit-keras data dedup`
    writes it), and all that the embedded set openclipart-mini was made of or nearly equals;
    the metadata says how many of each. Variants of one emoji, and drawings whose names differ in
    numbers only, are in one split.

    An emoji may show what an embedded image shows, the flag of a country say; no two pictures are
    the same.

    Features: image uint8 [height, width, 3], at most 128 pixels a side, cut to the drawing where
    that fills less than a quarter; labels, the classes from
    the category to the leaf class; label, the leaf class; name, package and file.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "Initial release."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "manual_dir must hold the unpacked packages. "
        "`python -m bit_keras.datasets.fetch clipart MANUAL_DIR` does it, and so do, in it:\n"
        + manual_commands("clipart")
    )

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                "labels": tfds.features.Sequence(tfds.features.ClassLabel()),
                "label": tfds.features.ClassLabel(),
                "name": tfds.features.Text(),
            }
        )
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=features,
            supervised_keys=("image", "label"),
            homepage="https://openclipart.org/",
            license="Public domain (openclipart-png); Apache-2.0 (emoji images)",
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        examples, dropped = select(Path(dl_manager.manual_dir))
        names = all_classes([example.leaf for example in examples])
        self.info.features["label"].names = names
        self.info.features["labels"].feature.names = names
        self.info.metadata["dropped"] = dict(sorted(dropped.items()))
        self.info.metadata["leaf_classes"] = len({example.leaf for example in examples})
        self.info.metadata["categories"] = len({e.leaf[:ROOT_DEPTH] for e in examples})
        held = held_out([e.leaf for e in examples], [e.group for e in examples], VALIDATION)
        parts = {
            split: [e for e, out in zip(examples, held, strict=True) if out == wanted]
            for split, wanted in (("train", False), ("validation", True))
        }
        return {split: self._generate_examples(part) for split, part in parts.items()}

    def _generate_examples(self, examples: list[Example]) -> Iterator[tuple[str, dict[str, Any]]]:
        names = self.info.features["label"].names
        for example in examples:
            labels = labels_of(example.leaf, names)
            image = io.BytesIO(example.png)
            yield (
                example.name,
                {"image": image, "labels": labels, "label": labels[-1], "name": example.name},
            )
