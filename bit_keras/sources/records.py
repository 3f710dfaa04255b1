"""`tfrecord:GLOB`: shards of tf.train.Example, local or on Google Cloud Storage."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from bit_keras.images import ImageError, decode_image
from bit_keras.sources.base import (
    Source,
    check_stream,
    multi_hot,
    original_or_new,
    padded_labels,
    parallel,
)
from bit_keras.sources.calls import countable
from bit_keras.sources.shards import IMAGE, LABEL, find_shards, read_labels
from bit_keras.sources.shuffle import Part, ShardShuffle

_FEATURES = {
    IMAGE: tf.io.FixedLenFeature([], tf.string),
    LABEL: tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True),
}


class RecordSource(Source):
    """Shards of tf.train.Example with image/encoded and image/class/label; see `load_source`.

    `bit-keras data` writes such shards with a manifest.json beside them, which says what they hold.
    Shards from elsewhere are read once when they are opened, to count them; they are one split,
    "train", whose classes are the numbers from 0 to the largest label. An example with no label or
    several anywhere makes the data multi-label.

    There is no random access: `examples` keeps the order of the shards' names. `stream` draws the
    order of the shards anew every epoch, reads `shuffle.GROUP` of them at a time, and shuffles what
    comes with a buffer. It needs no file to be read from the beginning to start in the middle of an
    epoch, but for the group where it starts.

    Args:
        pattern: files, with *, ? and [] for parts of their names; or a folder, for all *.tfrecord
            files in it. gs://BUCKET/… works where TensorFlow finds credentials.
        strict: raise on the first record whose image cannot be decoded.

    Raises:
        FileNotFoundError: when no file matches.
        ValueError: for shards that do not fit their manifest, or records that are not as above.
    """

    def __init__(self, pattern: str, *, strict: bool = False) -> None:
        name = f"tfrecord:{pattern}"
        found = find_shards(pattern, name)
        super().__init__(name, found.class_names, strict=strict)
        self.multi_label = found.multi_label
        self.splits = found.splits
        self._class_counts = found.class_counts
        self._shards = {
            split: [shard for shard in found.shards if shard.split == split]
            for split in self.splits
        }
        self._labels: dict[str, np.ndarray] = {}

    def labels(self, split: str) -> np.ndarray:
        """The labels of a split, read once without decoding an image; see `Source.labels`."""
        self._check_split(split)
        if split not in self._labels:
            found = [read_labels(shard.file) for shard in self._shards[split]]
            values, lengths = (np.concatenate(parts) for parts in zip(*found, strict=True))
            if self.multi_label:
                values = padded_labels(np.split(values, np.cumsum(lengths)[:-1]))
            self._labels[split] = values
        return self._labels[split].copy()

    def class_counts(self, split: str) -> np.ndarray:
        """Examples of each label, [num_classes] int64; from the manifest where all is read."""
        self._check_split(split)
        known = np.asarray(self._class_counts.get(split, ()), np.int64)
        return known.copy() if len(known) else super().class_counts(split)

    def examples(self, split: str, indices: ArrayLike | None = None) -> tf.data.Dataset:
        """The examples of a split in the order of the shards; see `Source.examples`."""
        chosen = self._chosen(split, indices)
        dataset = self._decoded(self._in_order(split, chosen), split, len(chosen))
        return dataset.map(_without("encoded"))

    def encoded(
        self, split: str, indices: ArrayLike | None = None, *, quality: int | None = None
    ) -> tf.data.Dataset:
        """The image files of the records; see `Source.encoded`."""
        chosen = self._chosen(split, indices)
        checked = self._decoded(self._in_order(split, chosen), split, len(chosen))

        def keep(example: dict[str, Any]) -> dict[str, Any]:
            data = original_or_new(example["encoded"], example["image"], quality)
            return {**example, "encoded": data}

        return checked.map(keep).map(_without("image"))

    def stream(
        self,
        split: str,
        *,
        seed: int,
        start: int = 0,
        indices: ArrayLike | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> tf.data.Dataset:
        """The examples without end, shards and examples shuffled anew every epoch.

        See `Source.stream`.

        Args:
            split: one of `splits`.
            seed: 0 or more.
            start: the first position to deliver.
            indices: [n] int, the examples to use; all of them when left out.
            shard: (worker, workers): every worker reads files of its own, every `workers`-th. Its
                positions are worker, worker + workers, …: unique over all workers, and they resume
                from the same `start`.

        Raises:
            ValueError: as `Source.stream`, and for fewer files than workers.
        """
        chosen = self._chosen(split, indices)
        dataset = self._encoded_stream(split, chosen, seed, start, shard)
        candidates = self._shuffle(split, chosen).of_worker(*shard).count
        return self._decoded(dataset, split, candidates).map(_without("encoded"))

    def encoded_stream(
        self,
        split: str,
        *,
        seed: int,
        start: int = 0,
        indices: ArrayLike | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> tf.data.Dataset:
        """As `stream`, not decoded, for `inception.decode_and_inception_crop`.

        Made of TensorFlow operations only, so that the tf.data service can run it. Nothing is left
        out: an image that cannot be decoded is an error where it is decoded.

        Returns:
            An infinite dataset of dict(encoded string, label, index int64, position int64).

        Example:
            >>> source = load_source("tfrecord:/data/flowers")  # doctest: +SKIP
            >>> crops = source.encoded_stream("train", seed=0).map(  # doctest: +SKIP
            ...     lambda e: decode_and_inception_crop(e["encoded"], [0, e["position"]], 224))
        """
        return self._encoded_stream(split, self._chosen(split, indices), seed, start, shard)

    def example_name(self, split: str, index: int) -> str:
        """What to call an example in messages: shard:record, both as stored, counted from 0."""
        ends = np.cumsum([shard.examples for shard in self._shards[split]])
        k = int(np.searchsorted(ends, index, side="right"))
        shard = self._shards[split][k]
        return f"{os.path.basename(shard.file)}:{index - (ends[k] - shard.examples)}"

    def _chosen(self, split: str, indices: ArrayLike | None) -> np.ndarray:
        chosen = self._check_indices(split, indices)
        if indices is not None and len(np.unique(chosen)) < len(chosen):
            raise ValueError(f"`indices` of {self.name} must not repeat. Received: {chosen}")
        return chosen

    def _shuffle(self, split: str, chosen: np.ndarray) -> ShardShuffle:
        shards, count = self._shards[split], self.splits[split]
        starts = np.cumsum([0, *(shard.examples for shard in shards)])
        parts = (Part(s.file, int(i), s.examples) for s, i in zip(shards, starts, strict=False))
        wanted = np.zeros(count, bool)
        wanted[chosen] = True
        weight = sum(shard.bytes for shard in shards) // max(1, count)
        return ShardShuffle(tuple(parts), None if wanted.all() else wanted, weight)

    def _in_order(self, split: str, chosen: np.ndarray) -> tf.data.Dataset:
        return parallel(self._shuffle(split, chosen).in_order(), self._parsed)

    def _encoded_stream(
        self, split: str, chosen: np.ndarray, seed: int, start: int, shard: tuple[int, int]
    ) -> tf.data.Dataset:
        check_stream(seed, start)
        worker, workers = shard
        if not 0 <= worker < workers or workers > len(self._shards[split]):
            raise ValueError(
                f"`shard` must be (worker, workers), from (0, 1) on, with at most the "
                f"{len(self._shards[split])} files of split {split!r} of {self.name} as workers: "
                f"`bit-keras data --shards=…` writes more of them. Received: {shard}"
            )
        mine = self._shuffle(split, chosen).of_worker(worker, workers)
        if not mine.count:
            raise ValueError(f"No file of worker {worker} of {workers} has any of the `indices`")
        first = max(0, -(-(start - worker) // workers))  # the first of its examples at `start`
        dataset = mine.stream(seed, first).enumerate(first)

        def with_position(number: tf.Tensor, example: dict[str, Any]) -> dict[str, Any]:
            return {**self._parsed(example), "position": number * workers + worker}

        return parallel(dataset, with_position)

    def _parsed(self, example: dict[str, Any]) -> dict[str, Any]:
        """dict(record, index) → dict(encoded, label, index)."""
        found = tf.io.parse_single_example(example["record"], _FEATURES)
        labels = found[LABEL]
        label = multi_hot(labels, self.num_classes) if self.multi_label else tf.reshape(labels, [])
        return {"encoded": found[IMAGE], "label": label, "index": example["index"]}

    def _decoded(self, dataset: tf.data.Dataset, split: str, candidates: int) -> tf.data.Dataset:
        """Adds the image, and leaves out what is broken."""
        broken: set[int] = set()

        def load(encoded: bytes, index: Any) -> tuple[np.ndarray, np.bool_]:
            try:
                return decode_image(encoded), np.True_
            except ImageError as error:
                name = self.example_name(split, int(index))
                if self.strict:
                    raise ImageError(f"{name} of {self.name}: {error}") from error
                self.skipped.add(name, str(error))
            broken.add(int(index))
            if len(broken) == candidates:  # an endless stream of nothing, otherwise
                raise ValueError(
                    f"None of the {candidates} examples could be decoded: {self.skipped.summary()}"
                )
            return np.zeros((0, 0, 3), np.uint8), np.False_

        load = countable(load)

        def add_image(example: dict[str, Any]) -> dict[str, Any]:
            inputs = [example["encoded"], example["index"]]
            image, usable = tf.numpy_function(load, inputs, (tf.uint8, tf.bool))
            image = tf.ensure_shape(image, [None, None, 3])
            return {"image": image, "usable": tf.ensure_shape(usable, []), **example}

        dataset = parallel(dataset, add_image).filter(lambda example: example["usable"])
        return dataset.map(_without("usable"))


def _without(key: str) -> Any:
    return lambda example: {name: value for name, value in example.items() if name != key}
