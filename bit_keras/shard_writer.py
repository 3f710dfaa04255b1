"""One record shard after the other: examples into files, in one pass over a data set."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from bit_keras.files import replacing, sha256_of_stream
from bit_keras.sources import Source
from bit_keras.sources.shards import IMAGE, LABEL


class OpenShard:
    """A shard that is being written."""

    def __init__(self, path: Path, class_names: Sequence[str]) -> None:
        self.path = path
        self.examples = 0
        self.labels: Counter[int] = Counter()
        self._class_names = class_names
        self._writer = tf.io.TFRecordWriter(str(path))

    def add(self, encoded: bytes, label: np.ndarray) -> None:
        """Appends an example; the label is int64 [] or multi-hot float32 [num_classes]."""
        labels = [int(label)] if label.ndim == 0 else np.flatnonzero(label).tolist()
        texts = [self._class_names[i].encode() for i in labels]
        kind = b"PNG" if encoded.startswith(b"\x89PNG") else b"JPEG"
        features = {
            IMAGE: tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded])),
            "image/format": tf.train.Feature(bytes_list=tf.train.BytesList(value=[kind])),
            LABEL: tf.train.Feature(int64_list=tf.train.Int64List(value=labels)),
            "image/class/text": tf.train.Feature(bytes_list=tf.train.BytesList(value=texts)),
        }
        example = tf.train.Example(features=tf.train.Features(feature=features))
        # The order of a map's entries is otherwise left to chance.
        self._writer.write(example.SerializeToString(deterministic=True))
        self.examples += 1
        self.labels.update(labels)

    def close(self) -> None:
        """Flushes the file."""
        self._writer.close()

    def entry(self) -> dict[str, Any]:
        """What to note of a closed shard."""
        return {
            "file": self.path.name,
            "examples": self.examples,
            "bytes": self.path.stat().st_size,
            "sha256": sha256_of(str(self.path)),
            "labels": dict(sorted(self.labels.items())),
        }


def write_shards(
    source: Source,
    split: str,
    folder: Path,
    chosen: dict[str, np.ndarray],
    quality: int | None,
    workers: int | None,
    bar: tqdm,
) -> list[dict[str, Any]]:
    """Writes some shards of a split in one pass over their examples.

    Args:
        source: the data.
        split: one of its splits.
        folder: where to; a shard has its name there only when it is whole.
        chosen: file → [n] int, the indices of its examples.
        quality: as in `Source.encoded`.
        workers: threads; one for each processor for None.
        bar: advances with every example.

    Returns:
        For each shard dict(file, split, examples, bytes, sha256, planned, labels, skipped).
    """
    known = set(source.skipped.names)
    shard_of = np.full(source.splits[split], -1)
    for k, indices in enumerate(chosen.values()):
        shard_of[indices] = k
    dataset = source.encoded(split, np.concatenate(list(chosen.values())), quality=quality)
    options = tf.data.Options()
    options.threading.private_threadpool_size = workers or os.cpu_count() or 1
    with contextlib.ExitStack() as stack:
        shards = []
        for file in chosen:
            path = stack.enter_context(replacing(folder / file))
            shards.append(OpenShard(path, source.class_names))
            stack.callback(shards[-1].close)  # before the path is left behind
        for example in dataset.with_options(options).as_numpy_iterator():
            shards[shard_of[example["index"]]].add(example["encoded"], example["label"])
            bar.update()
        for shard in shards:
            shard.close()
        entries = [shard.entry() for shard in shards]
    skipped = {n: why for n, why in source.skipped.reasons.items() if n not in known}
    bar.update(sum(len(indices) for indices in chosen.values()) - sum(s.examples for s in shards))
    for entry, indices in zip(entries, chosen.values(), strict=True):
        entry |= {"split": split, "planned": len(indices), "skipped": skipped}
        skipped = {}  # noted once
    return entries


def sha256_of(path: str) -> str:
    """The checksum of a file, local or gs://, hexadecimal."""
    with tf.io.gfile.GFile(path, "rb") as file:
        return sha256_of_stream(file)
