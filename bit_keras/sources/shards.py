"""Which files a `tfrecord:` name means and what they hold: by their manifest, or by counting."""

from __future__ import annotations

import dataclasses
import fnmatch
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow as tf

from bit_keras.sources import manifest
from bit_keras.sources.manifest import Manifest, Shard

IMAGE, LABEL = "image/encoded", "image/class/label"
_READERS = 8  # files counted at a time


def find_shards(pattern: str, name: str) -> Manifest:
    """The shards that a pattern names, with what they hold.

    Args:
        pattern: files, with *, ? and []; or a folder, for its *.tfrecord files.
        name: the data set, for messages.

    Returns:
        Their manifest, cut down to the files that match, whose names are full paths. Without one
        beside them, what one pass over all records finds.

    Raises:
        FileNotFoundError: when no file matches.
        ValueError: for files that do not fit their manifest, or are no such records.
    """
    pattern = os.path.expanduser(pattern)
    if tf.io.gfile.isdir(pattern):
        pattern = manifest.join(pattern, "*.tfrecord")
    try:
        files = sorted(tf.io.gfile.glob(pattern))
    except tf.errors.OpError as error:
        raise FileNotFoundError(f"{pattern} cannot be listed: {error.message}") from error
    records = (manifest.NAME, manifest.PROGRESS_NAME)
    files = [file for file in files if os.path.basename(file) not in records]
    if not files:
        raise FileNotFoundError(
            f"No file matches {pattern!r}. Received: {name!r}. Name shards such as "
            "'tfrecord:/data/flowers/train-*.tfrecord', or the folder they are in"
        )
    directory = os.path.dirname(files[0])
    together = all(os.path.dirname(file) == directory for file in files)
    found = manifest.read_manifest(directory) if together else None
    if found is None:
        return _count(files, name)
    return _cut_down(found, directory, files, os.path.basename(pattern), name)


def read_labels(path: str) -> tuple[np.ndarray, np.ndarray]:
    """The labels of all records of a shard.

    Returns:
        All labels one after the other, and how many each record has; both int64.

    Raises:
        ValueError: for a file that is damaged or holds no such records.
    """
    features = {LABEL: tf.io.RaggedFeature(tf.int64)}
    values, lengths = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    try:
        for batch in tf.data.TFRecordDataset(path).batch(1024):
            labels = tf.io.parse_example(batch, features)[LABEL]
            values.append(labels.values.numpy())
            lengths.append(labels.row_lengths().numpy())
    except tf.errors.OpError as error:
        raise ValueError(
            f"{path} is damaged, or its records are no tf.train.Example with {LABEL} as int64: "
            f"{error.message}"
        ) from error
    return np.concatenate(values), np.concatenate(lengths)


def _count(files: list[str], name: str) -> Manifest:
    """What is found by reading all shards."""
    print(
        f"{name} has no {manifest.NAME}: reading {len(files)} files to count their records. "
        f"`bit-keras data --source={name} --output=DIR` makes a copy that opens at once.",
        file=sys.stderr,
    )
    with ThreadPoolExecutor(_READERS) as pool:
        labels = list(pool.map(read_labels, files))
    values = np.concatenate([found[0] for found in labels])
    lengths = np.concatenate([found[1] for found in labels])
    if not len(values) or values.min() < 0 or values.max() < 1:
        labelled = f"{values.min()} to {values.max()}" if len(values) else "none"
        raise ValueError(
            f"{name} must have labels from 0, of at least two classes. "
            f"Received: {len(lengths)} records, labels: {labelled}"
        )
    shards = tuple(
        Shard(file, "train", len(found[1]), tf.io.gfile.stat(file).length, "")
        for file, found in zip(files, labels, strict=True)
    )
    return Manifest(
        shards=shards,
        class_names=tuple(str(i) for i in range(int(values.max()) + 1)),
        class_counts={"train": np.bincount(values).tolist()},
        multi_label=bool((lengths != 1).any()),
        settings={},
        skipped={},
        tool="",
    )


def _cut_down(
    whole: Manifest, directory: str, files: list[str], wanted: str, name: str
) -> Manifest:
    """The manifest of these files of a folder only."""
    present = {os.path.basename(file) for file in files}
    known = {shard.file for shard in whole.shards}
    # A pattern may ask for some of the shards, but all that it asks for must be there.
    missing = sorted(f for f in known - present if fnmatch.fnmatchcase(f, wanted))
    kept = [shard for shard in whole.shards if shard.file in present]
    paths = {shard.file: manifest.join(directory, shard.file) for shard in kept}
    cut = []
    if "://" not in directory:  # at no cost on a disk; elsewhere a request for each file
        cut = [s.file for s in kept if os.path.getsize(paths[s.file]) != s.bytes]
    if missing or cut or present - known:
        raise ValueError(
            f"{name} does not fit its {manifest.NAME}. Missing: {_some(missing)}. "
            f"Not listed: {_some(sorted(present - known))}. Of another size: {_some(cut)}. "
            "Write it again with `bit-keras data`, or name other files"
        )
    splits = {shard.split for shard in kept}
    # The counts of classes are those of whole splits.
    partial = {shard.split for shard in whole.shards if shard.file not in present}
    return dataclasses.replace(
        whole,
        shards=tuple(dataclasses.replace(shard, file=paths[shard.file]) for shard in kept),
        class_counts={s: c for s, c in whole.class_counts.items() if s in splits - partial},
    )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (", ".join(names[:5]) or "none") + more
