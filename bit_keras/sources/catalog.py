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
from bit_keras.sources.base import Source, check_stream, parallel

SHUFFLE_BYTES = 256 * 2**20  # of encoded images in the shuffle buffer
SHUFFLE_MIN = 1024  # examples in it at least, whatever they weigh
NETWORK_SECONDS = 8


class CatalogSource(Source):
    """A data set of TFDS with the features image and label; see `load_source`.

    It is looked for in the folder of the environment variable TFDS_DATA_DIR (TFDS' default is
    ~/tensorflow_datasets), and downloaded and prepared when it is not there. There is no random
    access: `examples` and `stream` keep the order of the files, and `stream` shuffles with a buffer
    that holds a whole small data set. The shuffle also depends on `tf.random.set_seed`. Images are
    decoded inside TensorFlow, and one that cannot be is an error, `strict` or not.

    Args:
        name: NAME, NAME/CONFIG or NAME/CONFIG:VERSION.
        strict: as said, without effect.

    Raises:
        ValueError: for an unknown name, or a data set without image and label.
        ConnectionError: when the data is not there and its host does not answer.
    """

    def __init__(self, name: str, *, strict: bool = False) -> None:
        self._builder = _builder(name)
        features = self._builder.info.features
        found = dict(features) if isinstance(features, tfds.features.FeaturesDict) else {}
        if not (
            isinstance(found.get("image"), tfds.features.Image)
            and isinstance(found.get("label"), tfds.features.ClassLabel)
        ):
            raise ValueError(
                f"tfds:{name} must have the features image (Image) and label (ClassLabel). "
                f"Received: {features}"
            )
        _prepare(self._builder, name)  # some builders know their classes only then
        super().__init__(f"tfds:{name}", features["label"].names, strict=strict)
        self.splits = {s: info.num_examples for s, info in self._builder.info.splits.items()}
        self._labels: dict[str, np.ndarray] = {}

    def labels(self, split: str) -> np.ndarray:
        """The labels of a split, [examples] int64; read once, without the images."""
        self._check_split(split)
        if split not in self._labels:
            decoders = tfds.decode.PartialDecoding({"label": True})
            dataset = self._read(split, decoders).map(lambda example: example["label"])
            batches = [np.asarray(batch) for batch in dataset.batch(4096)]
            self._labels[split] = np.concatenate(batches).astype(np.int64)
        return self._labels[split].copy()

    def examples(self, split: str, indices: ArrayLike | None = None) -> tf.data.Dataset:
        """The examples of a split in the order of the files; see `Source.examples`."""
        return _decoded(self._encoded(split, self._chosen(split, indices)))

    def encoded(
        self, split: str, indices: ArrayLike | None = None, *, quality: int | None = None
    ) -> tf.data.Dataset:
        """The image files as TFDS keeps them; see `Source.encoded`."""
        dataset = self._encoded(split, self._chosen(split, indices))
        return dataset.map(lambda e: {("encoded" if k == "image" else k): e[k] for k in e})

    def stream(
        self, split: str, *, seed: int, start: int = 0, indices: ArrayLike | None = None
    ) -> tf.data.Dataset:
        """The examples without end, shuffled anew every epoch; see `Source.stream`."""
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
        return _decoded(dataset.map(lambda position, example: {**example, "position": position}))

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
                "label": tf.cast(example["label"], tf.int64),
                "index": index,
            }
        )


def _held(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The same examples, still encoded, from memory."""
    rows = list(dataset.as_numpy_iterator())
    return tf.data.Dataset.from_tensor_slices(
        {key: tf.constant([row[key] for row in rows]) for key in rows[0]}
    )


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
