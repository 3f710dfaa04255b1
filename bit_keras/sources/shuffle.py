"""The order in which shards are read: without end, another one every epoch, from any position.

An epoch draws an order of the shards, and takes `GROUP` of them at a time: their records alternate
and pass a shuffle buffer. No record leaves its group, so that the records before a position are
known by number: whole groups are skipped without being read.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

GROUP = 16  # shards that are read at the same time
SHUFFLE_BYTES = 256 * 2**20  # of records in the shuffle buffer
SHUFFLE_MIN = 1024  # records in it at least, whatever they weigh
READ_BYTES = 2**20  # read from a shard at once


@dataclass(frozen=True)
class Part:
    """One shard: its path, the index of its first record in the split, and how many it has."""

    path: str
    first: int
    records: int


@dataclass(frozen=True)
class ShardShuffle:
    """Reads the chosen records of shards, in order or shuffled.

    Attributes:
        parts: the shards.
        wanted: [records of the split] bool, those to read; None for all.
        bytes_per_record: sizes the shuffle buffer.
        worker: workers of equal shards would otherwise shuffle them alike.
    """

    parts: tuple[Part, ...]
    wanted: np.ndarray | None
    bytes_per_record: int
    worker: int = 0

    @property
    def counts(self) -> list[int]:
        """Records to read from each part."""
        if self.wanted is None:
            return [part.records for part in self.parts]
        return [int(self.wanted[p.first : p.first + p.records].sum()) for p in self.parts]

    @property
    def count(self) -> int:
        """Records of an epoch."""
        return sum(self.counts)

    def of_worker(self, worker: int, workers: int) -> ShardShuffle:
        """The part of one worker: every `workers`-th shard."""
        return dataclasses.replace(self, parts=self.parts[worker::workers], worker=worker)

    def in_order(self) -> tf.data.Dataset:
        """Each record once, shard after shard: dict(record string, index int64)."""
        used = self._without_idle_parts()
        return tf.data.Dataset.range(len(used.parts)).flat_map(used._read)

    def stream(self, seed: int, first: int) -> tf.data.Dataset:
        """Records without end; a function of the shards and the seed, from number `first` on.

        Args:
            seed: 0 or more.
            first: records to leave out at the beginning.

        Returns:
            An infinite dataset of dict(record string, index int64).
        """
        used = self._without_idle_parts()
        counts = tf.constant(used.counts, tf.int64)
        shards, total = len(used.parts), used.count
        group_of = np.arange(shards) // GROUP

        def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
            fold_in = tf.random.experimental.stateless_fold_in
            epoch_seed = fold_in(tf.stack([tf.constant(seed, tf.int64), epoch]), used.worker)
            order = tf.random.experimental.stateless_shuffle(tf.range(shards), epoch_seed)
            sizes = tf.math.segment_sum(tf.gather(counts, order), group_of)
            ends = tf.cumsum(sizes)
            skipped = tf.where(epoch == first // total, tf.constant(first % total, tf.int64), 0)

            def one_group(group: tf.Tensor) -> tf.data.Dataset:
                members = order[group * GROUP : (group + 1) * GROUP]
                dataset = used._shuffled(members, fold_in(epoch_seed, group))
                return dataset.skip(tf.maximum(skipped - (ends[group] - sizes[group]), 0))

            begin = tf.reduce_sum(tf.cast(ends <= skipped, tf.int64))
            return tf.data.Dataset.range(begin, group_of[-1] + 1).flat_map(one_group)

        return tf.data.Dataset.range(first // total, tf.int64.max).flat_map(one_epoch)

    def _without_idle_parts(self) -> ShardShuffle:
        """Without the shards of which no record is read."""
        pairs = zip(self.parts, self.counts, strict=True)
        return dataclasses.replace(self, parts=tuple(part for part, count in pairs if count))

    def _shuffled(self, members: tf.Tensor, seed: tf.Tensor) -> tf.data.Dataset:
        """The records of some shards, each once."""
        # Of this function's graph only: the order must not depend on the program's own seed, and a
        # global seed of 0 would refuse a seed that is a tensor.
        tf.random.set_seed(1)
        buffer_seed = tf.random.stateless_uniform([], seed, None, None, tf.int64)
        dataset = tf.data.Dataset.from_tensor_slices(members).interleave(
            self._read, cycle_length=GROUP, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
        buffer = max(SHUFFLE_MIN, SHUFFLE_BYTES // max(1, self.bytes_per_record))
        # Reshuffling would depend on how many iterators this process has made before.
        return dataset.shuffle(buffer, seed=buffer_seed, reshuffle_each_iteration=False)

    def _read(self, part: tf.Tensor) -> tf.data.Dataset:
        """The records of one shard that are wanted."""
        first = tf.gather(tf.constant([p.first for p in self.parts], tf.int64), part)
        records = tf.gather(tf.constant([p.records for p in self.parts], tf.int64), part)
        path = tf.gather([p.path for p in self.parts], part)
        dataset = tf.data.TFRecordDataset(path, buffer_size=READ_BYTES)
        # A shard that has lost records would shift all positions after it.
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(records)).enumerate(first)
        if self.wanted is not None:
            wanted = tf.constant(self.wanted)
            dataset = dataset.filter(lambda index, _: tf.gather(wanted, index))
        return dataset.map(lambda index, record: {"record": record, "index": index})
