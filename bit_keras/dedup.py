"""Near-duplicates between an upstream and a downstream set by perceptual hash (Appendix C)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from PIL import Image, ImageOps
from tqdm import tqdm

from bit_keras.exclusions import exclusion_list
from bit_keras.exclusions import read_exclusions as read_exclusions
from bit_keras.files import replacing
from bit_keras.fingerprint import (
    COLOUR,
    DISTANCE,
    PROPORTION,
    bits_apart,
    colour_difference,
    content_box,
    fingerprint,
)
from bit_keras.fingerprint import perceptual_hash as perceptual_hash
from bit_keras.options import DedupOptions
from bit_keras.sources import Source, load_source
from bit_keras.sources.calls import countable

PICTURE = 96  # side of a picture on the contact sheet, pixels
COLUMNS = 5  # pairs in a row of it
MOST_SHOWN = 60  # pairs on it


@dataclass(frozen=True)
class Place:
    """Where an example is: split, index, and what to call it."""

    split: str
    index: int
    name: str


@dataclass(frozen=True)
class Pair:
    """Two near-duplicates: where they are, the bits and the colours they differ in."""

    upstream: Place
    downstream: Place
    bits: int
    colour: float


def _name(source: Source, split: str, index: int) -> str:
    """The example's file, where the source knows it."""
    try:
        return source.example_name(split, index)  # type: ignore[attr-defined]
    except (AttributeError, NotImplementedError):
        return f"{split}[{index}]"


def _scan(
    source: Source, splits: Sequence[str], progress: bool
) -> tuple[np.ndarray, list[tuple[str, int]]]:
    """Hashes of all examples, uint64 [n], and the split and index of each."""
    hashes: list[int] = []
    places: list[tuple[str, int]] = []
    hashed = countable(lambda image: perceptual_hash(np.asarray(image)))

    def only_hash(example: dict[str, Any]) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.numpy_function(hashed, [example["image"]], tf.uint64), example["index"]

    for split in splits:
        dataset = source.examples(split).map(only_hash, num_parallel_calls=tf.data.AUTOTUNE)
        label = f"{source.name} {split}"
        bar = tqdm(dataset, label, source.splits[split], unit="images", disable=not progress)
        for value, index in bar:
            hashes.append(int(value))
            places.append((split, int(index)))
    return np.array(hashes, np.uint64), places


def _images(source: Source, places: set[tuple[str, int]]) -> Iterator[tuple[tuple, np.ndarray]]:
    """Place and image of some examples, decoded once more."""
    for split in sorted({split for split, _ in places}):
        indices = sorted(index for s, index in places if s == split)
        for example in source.examples(split, indices):
            yield (split, int(example["index"])), example["image"].numpy()


def find_duplicates(
    upstream: Source,
    downstream: Source,
    distance: int = DISTANCE,
    *,
    upstream_splits: Sequence[str] = (),
    downstream_splits: Sequence[str] = (),
    progress: bool = False,
) -> list[Pair]:
    """The near-duplicates between two data sets.

    Both are decoded once, as a stream, for a hash of 8 bytes; what is near by the hash is decoded
    again for colours. Every downstream hash is compared with every upstream hash.

    Args:
        upstream: what a model is pre-trained on.
        downstream: what it is judged on.
        distance: bits of the hash that may differ, 0 to 63.
        upstream_splits: all of them when empty.
        downstream_splits: all of them when empty.
        progress: show progress bars.

    Returns:
        The pairs, the closest first.

    Raises:
        ValueError: for a distance out of range or an unknown split.

    Example:
        >>> find_duplicates(load_source("folder:a"), load_source("folder:b"))  # doctest: +SKIP
        [Pair(upstream=Place(split='train', index=7, name='cake/1.png'), …)]
    """
    if not 0 <= distance < 64:
        raise ValueError(f"`distance` must be from 0 to 63. Received: {distance}")
    ours, our_places = _scan(upstream, upstream_splits or list(upstream.splits), progress)
    theirs, their_places = _scan(downstream, downstream_splits or list(downstream.splits), progress)
    near = []
    for j, value in enumerate(theirs):
        bits = bits_apart(ours, value)
        near += [(int(i), j, int(bits[i])) for i in np.flatnonzero(bits <= distance)]
    left = {p: fingerprint(x) for p, x in _images(upstream, {our_places[i] for i, _, _ in near})}
    right = {
        p: fingerprint(x) for p, x in _images(downstream, {their_places[j] for _, j, _ in near})
    }
    pairs = []
    for i, j, bits_off in near:
        a, b = our_places[i], their_places[j]
        colour = colour_difference(left[a], right[b])
        if colour <= COLOUR:
            places = Place(*a, _name(upstream, *a)), Place(*b, _name(downstream, *b))
            pairs.append(Pair(*places, bits_off, round(colour, 2)))
    return sorted(pairs, key=lambda p: (p.bits, p.colour, p.upstream.name, p.downstream.name))


def _pictures(source: Source, places: set[tuple[str, int]]) -> dict[tuple, Image.Image]:
    """Pictures of some examples without their white border, all of one size."""
    small = {}
    for place, pixels in _images(source, places):
        content = Image.fromarray(pixels[content_box(pixels)])
        small[place] = ImageOps.contain(content, (PICTURE, PICTURE))
    return small


def contact_sheet(pairs: Sequence[Pair], upstream: Source, downstream: Source, path: Path) -> Path:
    """Draws the first `MOST_SHOWN` pairs side by side, upstream left, as a PNG file.

    Args:
        pairs: as `find_duplicates` gives them.
        upstream: the source of the left pictures.
        downstream: the source of the right ones.
        path: the file to write.
    """
    shown = pairs[:MOST_SHOWN]
    left = _pictures(upstream, {(p.upstream.split, p.upstream.index) for p in shown})
    right = _pictures(downstream, {(p.downstream.split, p.downstream.index) for p in shown})
    columns = min(COLUMNS, max(2, len(shown)))  # room for the title
    rows = max(1, -(-len(shown) // columns))
    figure = Figure(figsize=(2.8 * columns, 0.6 + 1.75 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.ravel():
        axes.axis("off")
    for axes, pair in zip(grid.ravel(), shown, strict=False):
        both = Image.new("RGB", (2 * PICTURE + 8, PICTURE), "white")
        both.paste(left[pair.upstream.split, pair.upstream.index], (0, 0))
        both.paste(right[pair.downstream.split, pair.downstream.index], (PICTURE + 8, 0))
        axes.imshow(np.asarray(both))
        names = "\n".join(_short(place.name) for place in (pair.upstream, pair.downstream))
        axes.set_title(f"{names}\n{pair.bits} bits, colour {pair.colour:.1f}", fontsize=6)
    more = f", the closest {len(shown)} shown" if len(shown) < len(pairs) else ""
    title = f"{upstream.name} (left) and {downstream.name} (right)\n{len(pairs)} pairs{more}"
    figure.suptitle(title, fontsize=9)
    with replacing(path) as partial:
        figure.savefig(partial, dpi=120, facecolor="white", format="png")
    return path


def _short(name: str, most: int = 38) -> str:
    # matplotlib would read what is between two dollar signs as a formula.
    return (name if len(name) <= most else f"…{name[1 - most :]}").replace("$", r"\$")


def _manifest(
    options: DedupOptions, pairs: Sequence[Pair], sources: Mapping[str, Source], text: str
) -> dict[str, Any]:
    return {
        **{
            side: {
                "name": source.name,
                "splits": source.splits,
                "skipped": source.skipped.reasons,
            }
            for side, source in sources.items()
        },
        "distance": options.distance,
        "colour": COLOUR,
        "proportion": PROPORTION,
        "excluded": len({(p.upstream.split, p.upstream.index) for p in pairs}),
        "exclude_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "pairs": [asdict(pair) for pair in pairs],
    }


def run(options: DedupOptions) -> list[Pair]:
    """`bit-keras data dedup`: finds near-duplicates and leaves a report of them.

    The folder `options.output` gets pairs.png (a contact sheet), exclude.txt (the upstream
    examples to leave out, see `read_exclusions`) and manifest.json (sizes, limits, all pairs).

    Returns:
        The pairs, the closest first.

    Raises:
        ValueError, OSError: as `load_source` and `find_duplicates`.

    Example:
        >>> options = DedupOptions("tfds:clipart", "tfds:stamps", "dedup")  # doctest: +SKIP
        >>> len(run(options))  # doctest: +SKIP
        2
    """
    upstream = load_source(options.upstream, strict=options.strict)
    downstream = load_source(options.downstream, strict=options.strict)
    pairs = find_duplicates(upstream, downstream, options.distance, progress=options.progress)
    output = Path(options.output)
    contact_sheet(pairs, upstream, downstream, output / "pairs.png")
    places = [(p.upstream.split, p.upstream.index, p.upstream.name) for p in pairs]
    text = exclusion_list(places, upstream)
    with replacing(output / "exclude.txt") as partial:
        partial.write_text(text, encoding="utf-8")
    sources = {"upstream": upstream, "downstream": downstream}
    with replacing(output / "manifest.json") as partial:
        record = _manifest(options, pairs, sources, text)
        partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return pairs


def summary(options: DedupOptions, pairs: Sequence[Pair]) -> str:
    """What `run` found, in a sentence."""
    upstream = len({(p.upstream.split, p.upstream.index) for p in pairs})
    downstream = len({(p.downstream.split, p.downstream.index) for p in pairs})
    return (
        f"{len(pairs)} near-duplicate pairs: {upstream} examples of {options.upstream}, "
        f"{downstream} of {options.downstream}. See {Path(options.output) / 'pairs.png'}; "
        f"{Path(options.output) / 'exclude.txt'} lists what to leave out upstream."
    )
