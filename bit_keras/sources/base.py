"""What every data source offers, and the part that those with random access share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from bit_keras.images import ImageError, SkippedFiles
from bit_keras.sources.calls import countable


class Source:
    """A labelled image data set; made by `load_source`.

    Attributes:
        name: as given to `load_source`.
        class_names: the names of the labels 0, 1, …
        splits: name of the split → number of examples, those that may turn out broken included.
        skipped: the files left out so far; it fills as files are decoded.
        strict: whether a broken file is an error.
        multi_label: False where every example has exactly one label. True where it has any number:
            `examples` and `stream` then give label as float32 [num_classes] of 0 and 1, and
            `labels` one row for each example, filled up with -1.
        random_access: whether `examples` keeps the order of `indices` at no cost.
    """

    multi_label = False
    random_access = False

    def __init__(self, name: str, class_names: Sequence[str], *, strict: bool = False) -> None:
        self.name = name
        self.class_names = list(class_names)
        self.strict = strict
        self.skipped = SkippedFiles()
        self.splits: dict[str, int] = {}

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def labels(self, split: str) -> np.ndarray:
        """The labels of a split, without decoding an image.

        Returns:
            [examples] int64; of multi-label data int64 [examples, most labels of one], where -1
            fills up.

        Raises:
            ValueError: for a split that the data does not have.
        """
        raise NotImplementedError

    def class_counts(self, split: str) -> np.ndarray:
        """How many examples of a split have each label; divided by their number, the prior.

        Returns:
            [num_classes] int64.
        """
        labels = self.labels(split)
        return np.bincount(labels[labels >= 0], minlength=self.num_classes).astype(np.int64)

    def examples(self, split: str, indices: ArrayLike | None = None) -> tf.data.Dataset:
        """The examples of a split, each once.

        Args:
            split: one of `splits`.
            indices: [n] int, which examples and in which order; all of them when left out. A TFDS
                source has no random access and keeps its own order.

        Returns:
            A finite dataset of dict(image uint8 [height, width, 3], label int64, index int64).
            Images that cannot be decoded are missing and noted in `skipped`; with `strict` they
            raise an error that names the file.

        Raises:
            ValueError: for an unknown split or an index out of range.
        """
        raise NotImplementedError

    def encoded(
        self, split: str, indices: ArrayLike | None = None, *, quality: int | None = None
    ) -> tf.data.Dataset:
        """The examples as image files: the originals where they are JPEG or PNG, else new ones.

        Args:
            split: one of `splits`.
            indices: as in `examples`.
            quality: 1 to 100, of new files as JPEG; they are PNG when left out.

        Returns:
            A finite dataset of dict(encoded string, label, index int64), labels as of `examples`.
            What `examples` leaves out is missing here too.
        """

        def encode(example: dict[str, Any]) -> dict[str, Any]:
            rest = {key: value for key, value in example.items() if key != "image"}
            return {"encoded": encode_image(example["image"], quality), **rest}

        return parallel(self.examples(split, indices), encode)

    def stream(
        self,
        split: str,
        *,
        seed: int,
        start: int = 0,
        indices: ArrayLike | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> tf.data.Dataset:
        """The examples without end, every epoch in another order.

        The stream is a function of (split, seed, indices); `start` cuts off its beginning, so that
        training resumes exactly where it stopped.

        Args:
            split: one of `splits`.
            seed: 0 or more.
            start: the first position to deliver.
            indices: [n] int, the examples to use; all of them when left out.
            shard: (worker, workers): only the positions worker, worker + workers, … are decoded and
                delivered, from `start` on. All workers together deliver one stream.

        Returns:
            An infinite dataset as of `examples`, with position int64 besides: the running number
            of the example. The numbers of broken files are missing.

        Raises:
            ValueError: as `examples`; for a negative seed or start.
        """
        raise NotImplementedError

    def encoded_stream(
        self,
        split: str,
        *,
        seed: int,
        start: int = 0,
        indices: ArrayLike | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> tf.data.Dataset | None:
        """As `stream`, not decoded, for `inception.decode_and_inception_crop`.

        Made of TensorFlow operations only, so that the tf.data service can run it. Nothing is left
        out: an image that cannot be decoded is an error where it is decoded.

        Returns:
            An infinite dataset of dict(encoded string, label, index int64, position int64); None
            where the source has no such thing.
        """
        return None

    def _check_split(self, split: str) -> None:
        if split not in self.splits:
            raise ValueError(
                f"{self.name} has no such split. Received: {split!r}. It has: "
                f"{', '.join(self.splits)}"
            )

    def _check_indices(self, split: str, indices: ArrayLike | None) -> np.ndarray:
        """[n] int64, all examples for None."""
        self._check_split(split)
        count = self.splits[split]
        if indices is None:
            return np.arange(count, dtype=np.int64)
        chosen = np.asarray(indices)
        if chosen.ndim != 1 or not len(chosen) or not np.issubdtype(chosen.dtype, np.integer):
            raise ValueError(
                "`indices` must be a non-empty vector of integers. "
                f"Received: shape {chosen.shape}, dtype {chosen.dtype}"
            )
        if chosen.min() < 0 or chosen.max() >= count:
            raise ValueError(
                f"`indices` must be from 0 to {count - 1} for split {split!r} of {self.name}. "
                f"Received: {chosen.min()} to {chosen.max()}"
            )
        return chosen.astype(np.int64)


def parallel(dataset: tf.data.Dataset, function: Callable[..., Any]) -> tf.data.Dataset:
    """The dataset with a function applied to several elements at a time, in their order."""
    return dataset.map(function, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def of_shard(dataset: tf.data.Dataset, shard: tuple[int, int]) -> tf.data.Dataset:
    """The elements of a stream whose positions are one worker's."""
    worker, workers = shard
    if workers == 1:
        return dataset
    return dataset.filter(lambda example: example["position"] % workers == worker)


def multi_hot(labels: tf.Tensor, num_classes: int) -> tf.Tensor:
    """int64 [n] class numbers → float32 [num_classes] of 0 and 1."""
    hot = tf.ones_like(labels, tf.float32)
    return tf.tensor_scatter_nd_update(tf.zeros([num_classes]), labels[:, None], hot)


def padded_labels(labels: Sequence[np.ndarray]) -> np.ndarray:
    """Lists of class numbers as one table, [examples, most of one] int64, filled up with -1."""
    lengths = np.array([len(one) for one in labels], np.int64)
    table = np.full((len(lengths), max(1, int(lengths.max(initial=0)))), -1, np.int64)
    table[np.arange(table.shape[1]) < lengths[:, None]] = np.concatenate(labels)
    return table


def encode_image(image: tf.Tensor, quality: int | None = None) -> tf.Tensor:
    """uint8 [height, width, 3] → scalar string, a JPEG of that quality, or a PNG for None."""
    if quality is None:
        return tf.io.encode_png(image)
    return tf.io.encode_jpeg(image, quality=quality)


def original_or_new(data: tf.Tensor, image: tf.Tensor, quality: int | None = None) -> tf.Tensor:
    """An image file as it is when it is a JPEG or PNG, else its pixels encoded anew.

    Args:
        data: scalar string, the file.
        image: uint8 [height, width, 3], what is in it.
        quality: as in `encode_image`.
    """
    head = tf.strings.substr(data + b"\0" * 4, 0, 4)
    keep = (tf.strings.substr(head, 0, 3) == b"\xff\xd8\xff") | (head == b"\x89PNG")
    return tf.ensure_shape(tf.cond(keep, lambda: data, lambda: encode_image(image, quality)), [])


def check_stream(seed: int, start: int) -> None:
    """Refuses a negative seed or start.

    Raises:
        ValueError: for either.
    """
    if seed < 0 or start < 0:
        raise ValueError(
            f"`seed` and `start` must be 0 or more. Received: seed={seed}, start={start}"
        )


class IndexedSource(Source):
    """A source that can read any example by its index. Subclasses say how."""

    random_access = True

    def __init__(
        self,
        name: str,
        class_names: Sequence[str],
        labels: dict[str, np.ndarray],
        *,
        strict: bool = False,
    ) -> None:
        super().__init__(name, class_names, strict=strict)
        self._labels = {split: np.asarray(y, np.int64) for split, y in labels.items()}
        self.splits = {split: len(y) for split, y in labels.items()}

    def read_image(self, split: str, index: int) -> np.ndarray:
        """The image, uint8 [height, width, 3].

        Raises:
            ImageError: when it cannot be decoded.
        """
        raise NotImplementedError

    def example_name(self, split: str, index: int) -> str:
        """What to call the example in messages: its file."""
        raise NotImplementedError

    def labels(self, split: str) -> np.ndarray:
        """The labels of a split, [examples] int64."""
        self._check_split(split)
        return self._labels[split].copy()

    def examples(self, split: str, indices: ArrayLike | None = None) -> tf.data.Dataset:
        """The examples of a split in the order of `indices`; see `Source.examples`."""
        order = self._check_indices(split, indices)
        dataset = tf.data.Dataset.from_tensor_slices({"index": order})
        return self._decoded(dataset, split, order)

    def stream(
        self,
        split: str,
        *,
        seed: int,
        start: int = 0,
        indices: ArrayLike | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> tf.data.Dataset:
        """The examples without end, a new permutation every epoch; see `Source.stream`."""
        chosen = self._check_indices(split, indices)
        check_stream(seed, start)
        count = len(chosen)

        def permuted(epoch: np.ndarray) -> np.ndarray:
            return chosen[np.random.default_rng((seed, int(epoch))).permutation(count)]

        def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
            order = tf.ensure_shape(
                tf.numpy_function(countable(permuted), [epoch], tf.int64), [count]
            )
            position = epoch * count + tf.range(count, dtype=tf.int64)
            first = tf.maximum(start - epoch * count, 0)  # above 0 only in the first epoch
            return tf.data.Dataset.from_tensor_slices(
                {"index": order[first:], "position": position[first:]}
            )

        epochs = tf.data.Dataset.range(start // count, tf.int64.max)
        return self._decoded(of_shard(epochs.flat_map(one_epoch), shard), split, chosen)

    def _decoded(self, dataset: tf.data.Dataset, split: str, chosen: np.ndarray) -> tf.data.Dataset:
        """Adds image and label to a dataset of indices, and leaves out what is broken."""
        load = self._loader(split, len(np.unique(chosen)))

        def add_image(example: dict[str, Any]) -> dict[str, Any]:
            # Pillow lets go of Python's lock while it decodes, so that calls do run in parallel.
            image, label, usable = tf.numpy_function(
                load, [example["index"]], (tf.uint8, tf.int64, tf.bool)
            )
            return {
                "image": tf.ensure_shape(image, [None, None, 3]),
                "label": tf.ensure_shape(label, []),
                "usable": tf.ensure_shape(usable, []),
                **example,
            }

        def without_flag(example: dict[str, Any]) -> dict[str, Any]:
            return {key: value for key, value in example.items() if key != "usable"}

        dataset = parallel(dataset, add_image)
        return dataset.filter(lambda example: example["usable"]).map(without_flag)

    def _loader(self, split: str, candidates: int) -> Callable[[Any], tuple]:
        """index → (image, label, usable), for `tf.numpy_function`."""
        labels = self._labels[split]
        broken: set[int] = set()

        def load(index: Any) -> tuple[np.ndarray, np.int64, np.bool_]:
            index = int(index)
            try:
                return self.read_image(split, index), labels[index], np.True_
            except ImageError as error:
                name = self.example_name(split, index)
                if self.strict:
                    raise ImageError(f"{name} of {self.name}: {error}") from error
                self.skipped.add(name, str(error))
            broken.add(index)
            if len(broken) == candidates:  # an endless stream of nothing, otherwise
                raise ValueError(
                    f"None of the {candidates} examples could be decoded: {self.skipped.summary()}"
                )
            return np.zeros((0, 0, 3), np.uint8), labels[index], np.False_

        return countable(load)
