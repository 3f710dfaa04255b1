"""Writes any data set to record shards that a training job reads at full speed, and checks them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import zlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from bit_keras.files import replacing
from bit_keras.options import DataOptions
from bit_keras.shard_writer import sha256_of, write_shards
from bit_keras.sources import Source, load_source
from bit_keras.sources.manifest import NAME, PROGRESS_NAME, Manifest, Shard, join, read_manifest
from bit_keras.text import table
from bit_keras.version import __version__

EXAMPLES_PER_SHARD = 1_000  # of the default number of shards: about 100 MB of ImageNet
MAX_SHARDS = 1_024  # of the default
_OPEN_SHARDS = 64  # files written in one pass over a source without random access


class RecordsError(ValueError):
    """A folder of shards that is taken, belongs to other data, or is damaged."""


def write_records(
    source: Source,
    directory: str | PathLike[str],
    *,
    shards: int | None = None,
    splits: Sequence[str] | None = None,
    seed: int = 0,
    workers: int | None = None,
    quality: int | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> Manifest:
    """Writes a data set to shards of tf.train.Example, with a manifest.json beside them.

    The shards open as `tfrecord:DIRECTORY`. Which example goes to which shard is drawn from the
    seed, so that the shards are alike and reading them by turns mixes well. JPEG and PNG files are
    stored as they are; every image is decoded once, and the broken ones are left out and named in
    the manifest. A record has the features image/encoded, image/format ("JPEG" or "PNG"),
    image/class/label and image/class/text, the last two one or many.

    A shard has its name only when it is whole. After an interruption the same call goes on with the
    shards that are missing, and ends with the same bytes as an uninterrupted one.

    Args:
        source: the data; from `load_source(spec, seed=seed)`, where the spec's split needs a seed.
        directory: a local folder; made when it is not there.
        shards: files for each split; by default one for every 1,000 examples, at most 1,024. Take
            a multiple of the workers that will read them.
        splits: those to write; all when left out.
        seed: of the distribution to shards, 0 or more.
        workers: threads that read, decode and encode; one for each processor when left out.
        quality: 1 to 100, JPEG quality for images that are in neither format; PNG, which loses
            nothing, when left out.
        overwrite: delete the shards that are there.
        progress: show a bar on stderr.

    Returns:
        The manifest.

    Raises:
        RecordsError: when the folder holds something else.
        ValueError: for numbers or splits that cannot be, or a split without a usable image.
        ImageError: (wrapped by TensorFlow) for a broken image, when the source is strict.

    Example:
        >>> from bit_keras.sources import load_source
        >>> source = load_source("folder:flowers")  # doctest: +SKIP
        >>> write_records(source, "records/flowers", shards=8).splits  # doctest: +SKIP
        {'train': 2936, 'test': 734}
    """
    folder = Path(directory)
    if "://" in str(directory):
        raise ValueError(
            f"Shards are written to a local folder; copy them with `gcloud storage cp -r`. "
            f"Received: {str(directory)!r}"
        )
    plan = _plan(source, list(splits or source.splits), shards, seed, quality)
    finished = _claim(folder, plan, overwrite)
    if finished is not None:
        return finished
    done = _finished_shards(folder)
    total = sum(len(indices) for part in plan.parts.values() for indices in part.values())
    bar = tqdm(total=total, unit="image", desc="writing", disable=not progress, leave=False)
    with bar:
        bar.update(sum(entry["planned"] for entry in done.values()))
        for split, part in plan.parts.items():
            missing = [file for file in part if file not in done]
            step = 1 if source.random_access else _OPEN_SHARDS
            for i in range(0, len(missing), step):
                chosen = {file: part[file] for file in missing[i : i + step]}
                entries = write_shards(source, split, folder, chosen, quality, workers, bar)
                _note(folder, entries)
                done |= {entry["file"]: entry for entry in entries}
    return _finish(folder, source, plan, done)


def verify_records(
    directory: str | PathLike[str], *, workers: int | None = None, progress: bool = False
) -> Manifest:
    """Checks every shard of a folder against the SHA-256 in its manifest.

    Args:
        directory: the folder, local or gs://.
        workers: files read at a time; one for each processor when left out.
        progress: show a bar on stderr.

    Returns:
        The manifest.

    Raises:
        RecordsError: when there is no manifest, or naming the shards that are missing or damaged.
        ValueError: for a manifest that cannot be used.

    Example:
        >>> verify_records("records/flowers").splits  # doctest: +SKIP
        {'train': 2936, 'test': 734}
    """
    manifest = read_manifest(str(directory))
    if manifest is None:
        raise RecordsError(
            f"{directory} has no {NAME}: name a folder that `bit-keras data` has written."
        )

    def fault(shard: Shard) -> str:
        path = join(str(directory), shard.file)
        if not tf.io.gfile.exists(path):
            return f"{shard.file} (missing)"
        return "" if sha256_of(path) == shard.sha256 else f"{shard.file} (damaged)"

    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:  # hashing runs beside Python
        found = pool.map(fault, manifest.shards)
        files = len(manifest.shards)
        bar = tqdm(found, total=files, unit="file", disable=not progress, leave=False)
        faults = [text for text in bar if text]
    if faults:
        raise RecordsError(
            f"{len(faults)} of {files} files of {directory} are not as they were written: "
            f"{', '.join(faults)}. Copy them again, or write all of them anew with --overwrite."
        )
    return manifest


def run_data(options: DataOptions) -> str:
    """Writes and checks shards as the options say; gives a summary.

    Raises:
        ValueError: as `load_source`, `write_records` and `verify_records`.
    """
    told = []
    if options.source:
        source = load_source(options.source, seed=options.seed, strict=options.strict)
        manifest = write_records(
            source,
            options.output,
            shards=options.shards,
            splits=[name.strip() for name in options.splits.split(",") if name.strip()] or None,
            seed=options.seed,
            workers=options.workers,
            quality=options.quality,
            overwrite=options.overwrite,
            progress=options.progress,
        )
        if manifest.skipped:
            told.append(f"{len(manifest.skipped)} files left out; {NAME} names them.")
    if options.verify:
        manifest = verify_records(
            options.output, workers=options.workers, progress=options.progress
        )
        told.append(f"All {len(manifest.shards)} shards are as they were written.")
    files = Counter(shard.split for shard in manifest.shards)
    rows = [(split, files[split], f"{count:,}") for split, count in manifest.splits.items()]
    told.append(f"Open them as tfrecord:{options.output}")
    return "\n".join([table(("split", "files", "images"), rows, "lrr"), *told])


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What is to be written: split → file → indices of its examples, in this order."""

    parts: dict[str, dict[str, np.ndarray]]
    settings: dict[str, Any]


def _plan(
    source: Source, splits: list[str], shards: int | None, seed: int, quality: int | None
) -> _Plan:
    unknown = [split for split in splits if split not in source.splits]
    if unknown:
        raise ValueError(
            f"{source.name} has no such split. Received: {', '.join(unknown)}. It has: "
            f"{', '.join(source.splits)}"
        )
    if (shards is not None and shards < 1) or seed < 0 or not 1 <= (quality or 1) <= 100:
        raise ValueError(
            "`shards` must be at least 1, `seed` 0 or more and `quality` 1 to 100. "
            f"Received: shards={shards}, seed={seed}, quality={quality}"
        )
    parts = {}
    for split in splits:
        count = source.splits[split]
        number = shards or min(MAX_SHARDS, -(-count // EXAMPLES_PER_SHARD))
        number = min(number, count)
        order = np.random.default_rng((seed, zlib.crc32(split.encode()))).permutation(count)
        parts[split] = {
            f"{split}-{k:05d}-of-{number:05d}.tfrecord": order[k::number] for k in range(number)
        }
    settings = {
        "source": source.name,
        "examples": {split: source.splits[split] for split in splits},
        "shards": {split: len(part) for split, part in parts.items()},
        "seed": seed,
        "quality": quality,
        "classes": hashlib.sha256("\n".join(source.class_names).encode()).hexdigest(),
    }
    return _Plan(parts, settings)


def _claim(folder: Path, plan: _Plan, overwrite: bool) -> Manifest | None:
    """Makes the folder this plan's, or refuses; the manifest when all is written already."""
    for leftover in folder.glob(".*.partial"):  # of a killed process
        shutil.rmtree(leftover, ignore_errors=True)
    ours = (folder / NAME).exists() or (folder / PROGRESS_NAME).exists()
    if not ours and folder.is_dir() and any(folder.iterdir()):
        raise RecordsError(
            f"{folder} is not empty and holds no shards of `bit-keras data`. Choose another folder."
        )
    if ours and overwrite:
        for file in (NAME, PROGRESS_NAME):
            (folder / file).unlink(missing_ok=True)
        for shard in folder.glob("*-?????-of-?????.tfrecord"):
            shard.unlink()
    elif ours:
        manifest = read_manifest(str(folder)) if (folder / NAME).exists() else None
        settings = manifest.settings if manifest else _progress(folder)[0]
        changed = [
            f"{key}: {settings.get(key)!r} then, {plan.settings.get(key)!r} now"
            for key in sorted({*settings, *plan.settings})
            if settings.get(key) != plan.settings.get(key)
        ]
        if changed:
            raise RecordsError(
                f"{folder} holds shards written from other data or with other settings: "
                f"{'; '.join(changed)}. Pass --overwrite to delete them, or another --output."
            )
        return manifest
    with replacing(folder / PROGRESS_NAME) as partial:
        partial.write_text(json.dumps(plan.settings) + "\n")
    return None


def _progress(folder: Path) -> list[dict[str, Any]]:
    """The settings, and an entry for each shard; a last line that a kill cut short is left out."""
    lines = []
    for line in (folder / PROGRESS_NAME).read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines or [{}]


def _finished_shards(folder: Path) -> dict[str, dict[str, Any]]:
    """File → entry of the shards that are noted and there."""
    settings, *entries = _progress(folder)
    done = {}
    for entry in entries:
        path = folder / entry["file"]
        if path.is_file() and path.stat().st_size == entry["bytes"]:
            done[entry["file"]] = entry
    # Without the cut line, after which nothing could be added.
    with replacing(folder / PROGRESS_NAME) as partial:
        lines = [settings, *done.values()]
        partial.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return done


def _note(folder: Path, entries: list[dict[str, Any]]) -> None:
    with (folder / PROGRESS_NAME).open("a") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in entries)


def _finish(folder: Path, source: Source, plan: _Plan, done: dict[str, dict[str, Any]]) -> Manifest:
    """Puts the manifest in place of the notes."""
    shards, counts = [], {}
    skipped = source.skipped.reasons
    for split, part in plan.parts.items():
        sums = np.zeros(source.num_classes, np.int64)
        for file in part:
            entry = done[file]
            skipped |= entry["skipped"]
            for label, count in entry["labels"].items():
                sums[int(label)] += count
            kept = {f.name: entry[f.name] for f in dataclasses.fields(Shard)}
            shards.append(Shard(**kept))
        counts[split] = sums.tolist()
        if not any(shard.examples for shard in shards if shard.split == split):
            raise ValueError(f"Not one image of the split {split!r} of {source.name} is readable.")
    manifest = Manifest(
        shards=tuple(shards),
        class_names=tuple(source.class_names),
        class_counts=counts,
        multi_label=source.multi_label,
        settings=plan.settings,
        skipped=dict(sorted(skipped.items())),
        tool=f"bit-keras {__version__}",
    )
    with replacing(folder / NAME) as partial:
        partial.write_text(manifest.to_json())
    (folder / PROGRESS_NAME).unlink()
    return manifest
