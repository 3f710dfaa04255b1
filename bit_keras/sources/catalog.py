"""`tfds:NAME`: data sets of TensorFlow Datasets, read in their own order."""

from __future__ import annotations

import difflib
import os
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from numpy.typing import ArrayLike

from bit_keras import datasets
from bit_keras.decoding import decode_bytes
from bit_keras.sources.base import (
    Source,
    check_stream,
    multi_hot,
    of_shard,
    padded_labels,
    parallel,
)

SHUFFLE_BYTES = 256 * 2**20  # of encoded images in the shuffle buffer
SHUFFLE_MIN = 1024  # examples in it at least, whatever they weigh
NETWORK_SECONDS = 8


class CatalogSource(Source):
    """A data set of TFDS with the features image and label or labels; see `load_source`.

    Where there is a feature labels, a sequence of classes, the data is multi-label.

    It is looked for in the folder of the environment variable TFDS_DATA_DIR (TFDS' default is
    ~/tensorflow_datasets), and downloaded and prepared when it is not there. There is no random
    access: `examples` and `stream` keep the order of the files, and `stream` shuffles with a buffer
    that holds a whole small data set. The shuffle also depends on `tf.random.set_seed`. Images are
    decoded inside TensorFlow, and one that cannot be is an error, `strict` or not.

    Args:
        name: NAME, NAME/CONFIG or NAME/CONFIG:VERSION.
        strict: as said, without effect.

    Raises:
        ValueError: for an unknown name, or a data set without image and label or labels.
        ConnectionError: when the data is not there and its host does not answer.
    """

    def __init__(self, name: str, *, strict: bool = False) -> None:
        self._builder = _builder(name)
        features = self._builder.info.features
        found = dict(features) if isinstance(features, tfds.features.FeaturesDict) else {}
        classes = _class_feature(found)
        if classes is None or not isinstance(found.get("image"), tfds.features.Image):
            raise ValueError(
                f"tfds:{name} must have the features image (Image), and label (ClassLabel) or "
                f"labels (Sequence of ClassLabel). Received: {features}"
            )
        _prepare(self._builder, name)  # some builders know their classes only then
        super().__init__(f"tfds:{name}", classes.names, strict=strict)
        self.multi_label = "labels" in found
        self.splits = {s: info.num_examples for s, info in self._builder.info.splits.items()}
        self._labels: dict[str, np.ndarray] = {}

    def labels(self, split: str) -> np.ndarray:
        """The labels of a split, read once, without the images; see `Source.labels`."""
        self._check_split(split)
        if split not in self._labels:
            key = self._label_key
            dataset = self._read(split, tfds.decode.PartialDecoding({key: True}))
            found = [example[key] for example in dataset.as_numpy_iterator()]
            self._labels[split] = padded_labels(found) if self.multi_label else np.array(found)
        return self._labels[split].astype(np.int64)

    @property
    def _label_key(self) -> str:
        return "labels" if self.multi_label else "label"

    def examples(self, split: str, indices: ArrayLike | None = None) -> tf.data.Dataset:
        """The examples of a split in the order of the files; see `Source.examples`."""
        return _decoded(self._encoded(split, self._chosen(split, indices)))

    def encoded(
        self, split: str, indices: ArrayLike | None = None, *, quality: int | None = None
    ) -> tf.data.Dataset:
        """The image files as TFDS keeps them; see `Source.encoded`."""
        dataset = self._encoded(split, self._chosen(split, indices))
        return _renamed(dataset, "image", "encoded")

    def stream(
        self,
        split: str,
        *,
        seed: int,
        start: int = 0,
        indices: ArrayLike | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> tf.data.Dataset:
        """The examples without end, shuffled anew every epoch; see `Source.stream`."""
        dataset = self.encoded_stream(split, seed=seed, start=start, indices=indices, shard=shard)
        return _decoded(_renamed(dataset, "encoded", "image"))

    def encoded_stream(
        self,
        split: str,
        *,
        seed: int,
        start: int = 0,
        indices: ArrayLike | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> tf.data.Dataset:
        """As `stream`, not decoded; see `Source.encoded_stream`."""
        chosen = self._chosen(split, indices)
        check_stream(seed, start)
        count = len(chosen)
        encoded = self._encoded(split, chosen)
        buffer = min(count, max(SHUFFLE_MIN, SHUFFLE_BYTES // self._bytes_per_example(split)))
        if count < self.splits[split] and count <= buffer:
            encoded = _held(encoded)  # a few shots: not the whole split again for every epoch

        def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
            # Of this function's graph only: the order must not depend on the program's own seed,
            # and a global seed of 0 would refuse an epoch's seed that is a tensor.
            tf.random.set_seed(1)
            epoch_seed = tf.random.stateless_uniform([], [seed, epoch], None, None, tf.int64)
            # Reshuffling would depend on how many iterators this process has made before.
            return encoded.shuffle(buffer, seed=epoch_seed, reshuffle_each_iteration=False)

        dataset = tf.data.Dataset.range(start // count, tf.int64.max).flat_map(one_epoch)
        dataset = dataset.skip(start % count).enumerate(start)  # skipped before decoding
        dataset = dataset.map(lambda position, example: {**example, "position": position})
        return of_shard(_renamed(dataset, "image", "encoded"), shard)

    def _chosen(self, split: str, indices: ArrayLike | None) -> np.ndarray:
        chosen = self._check_indices(split, indices)
        if len(np.unique(chosen)) < len(chosen):
            raise ValueError(f"`indices` of {self.name} must not repeat. Received: {chosen}")
        return chosen

    def _bytes_per_example(self, split: str) -> int:
        return max(1, self._builder.info.splits[split].num_bytes // self.splits[split])

    def _read(self, split: str, decoders: Any) -> tf.data.Dataset:
        # The same call for labels and images, so that both come in the same order.
        return self._builder.as_dataset(
            split=split,
            decoders=decoders,
            shuffle_files=False,
            read_config=tfds.ReadConfig(try_autocache=False),
        )

    def _encoded(self, split: str, chosen: np.ndarray) -> tf.data.Dataset:
        """dict(image as encoded string, label, index), the chosen ones in the files' order."""
        wanted = np.zeros(self.splits[split], bool)
        wanted[chosen] = True
        dataset = self._read(split, {"image": tfds.decode.SkipDecoding()}).enumerate()
        if not wanted.all():
            dataset = dataset.filter(lambda index, _: tf.gather(wanted, index))
        return dataset.map(
            lambda index, example: {
                "image": example["image"],
                "label": self._label(example[self._label_key]),
                "index": index,
            }
        )

    def _label(self, label: tf.Tensor) -> tf.Tensor:
        label = tf.cast(label, tf.int64)
        return multi_hot(label, self.num_classes) if self.multi_label else label


def _class_feature(features: dict[str, Any]) -> tfds.features.ClassLabel | None:
    """The feature that names the classes: labels where there is one, else label."""
    sequence = features.get("labels")
    one = getattr(sequence, "feature", None) if sequence is not None else features.get("label")
    return one if isinstance(one, tfds.features.ClassLabel) else None


def _held(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The same examples, still encoded, from memory."""
    rows = list(dataset.as_numpy_iterator())
    return tf.data.Dataset.from_tensor_slices(
        {key: tf.constant([row[key] for row in rows]) for key in rows[0]}
    )


def _renamed(dataset: tf.data.Dataset, before: str, after: str) -> tf.data.Dataset:
    return dataset.map(lambda e: {(after if key == before else key): e[key] for key in e})


def _decoded(dataset: tf.data.Dataset) -> tf.data.Dataset:
    return parallel(dataset, lambda example: {**example, "image": decode_bytes(example["image"])})


def _builder(name: str) -> Any:
    datasets.register()
    try:
        return tfds.builder(name, data_dir=os.environ.get("TFDS_DATA_DIR"))
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        close = difflib.get_close_matches(name.partition("/")[0], known)
        raise ValueError(
            f"TFDS has no such data set. Received: 'tfds:{name}'. "
            + (f"Close to it: {', '.join(close)}. " if close else "")
            + "All: https://www.tensorflow.org/datasets/catalog/overview"
        ) from error


def _prepare(builder: Any, name: str) -> None:
    """Downloads and prepares what is not there; without network, fails at once.

    TFDS by itself repeats a failing download for more than three minutes.
    """
    if builder.info.splits:
        return
    hosts = sorted({_address(url) for url in builder.url_infos or ()} - {""})[:8]
    # What has to be downloaded by hand needs no network here.
    if hosts and not builder.MANUAL_DOWNLOAD_INSTRUCTIONS and not _any_answers(hosts):
        raise ConnectionError(
            f"tfds:{name} is not in {builder.data_dir}, and {', '.join(hosts)} cannot be reached. "
            'Prepare it where there is a network: python -c "import tensorflow_datasets as tfds; '
            f"tfds.builder('{name}', data_dir='DIR').download_and_prepare()\". "
            "Then copy DIR here and set TFDS_DATA_DIR=DIR"
        )
    try:
        builder.download_and_prepare()
    except AssertionError as error:  # TFDS' way to say that files are not where they should be
        raise FileNotFoundError(f"tfds:{name} must be downloaded by hand: {error}") from error


def _address(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}" if parts.scheme in ("http", "https") else ""


def _any_answers(addresses: list[str]) -> bool:
    """Whether any address answers within `NETWORK_SECONDS`, through a proxy if there is one."""
    import requests

    answers = threading.Event()

    def ask(address: str) -> None:
        try:
            requests.head(address, timeout=NETWORK_SECONDS / 2)
        except (requests.RequestException, ValueError):
            return
        answers.set()

    # Threads, because looking up a name may take longer than any timeout of the connection.
    threads = [threading.Thread(target=ask, args=(a,), daemon=True) for a in addresses]
    deadline = time.monotonic() + NETWORK_SECONDS
    for thread in threads:
        thread.start()
    while time.monotonic() < deadline and any(thread.is_alive() for thread in threads):
        if answers.wait(0.05):
            return True
    return answers.is_set()
