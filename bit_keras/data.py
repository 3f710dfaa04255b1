"""Batches for training and evaluation, from any `Source`."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from bit_keras.distribute import Part
from bit_keras.inception import decode_and_inception_crop, inception_crop
from bit_keras.preprocess import eval_view, mixup, train_view
from bit_keras.sources import Source
from bit_keras.sources.base import parallel


def train_batches(
    source: Source,
    split: str,
    *,
    batch_size: int,
    resize: int,
    crop: int,
    num_classes: int,
    seed: int,
    indices: ArrayLike | None = None,
    flip: bool = True,
    mixup_alpha: float | None = None,
    start: int = 0,
) -> tf.data.Dataset:
    """Training batches without end: shuffled, cropped and mirrored at random, mixed up.

    The examples form one infinite stream in which each has a position; shuffling, augmentation and
    MixUp are functions of (seed, position). `start=batch["position"][-1] + 1` therefore continues
    after that batch with the very batches that would have followed. The batch is the global one:
    MixUp comes before anything is distributed to replicas.

    Args:
        source: the data.
        split: one of `source.splits`.
        batch_size: examples of one update, over all replicas.
        resize: side in pixels to which images are resized, as squares.
        crop: side of the random crop, at most `resize`.
        num_classes: length of the labels, at least `source.num_classes`.
        seed: 0 or more.
        indices: [n] int, the examples to train on; all of the split when left out. May be fewer
            than a batch: they then come several times in one.
        flip: mirror half of the images.
        mixup_alpha: of MixUp's Beta(α, α); None or 0 for no MixUp.
        start: the first position to deliver.

    Returns:
        An infinite dataset of dict(image float32 [batch_size, crop, crop, 3] in [-1, 1],
        label float32 [batch_size, num_classes], position int64 [batch_size]), static shapes.

    Raises:
        ValueError: for sizes, rates or names that cannot be.

    Example:
        >>> from bit_keras.sources import load_source
        >>> source = load_source("embedded:openclipart-mini")  # doctest: +SKIP
        >>> batches = train_batches(source, "train", batch_size=64, resize=160, crop=128,
        ...                         num_classes=source.num_classes, seed=0)  # doctest: +SKIP
    """
    _check_batch(source, batch_size, num_classes)
    if not 1 <= crop <= resize:
        raise ValueError(
            f"`crop` must be between 1 and `resize`. Received: crop={crop}, resize={resize}"
        )
    if mixup_alpha is not None and mixup_alpha < 0:
        raise ValueError(f"`mixup_alpha` must be 0 or more, or None. Received: {mixup_alpha}")

    def view(example: dict[str, Any]) -> dict[str, Any]:
        augmentation = tf.stack([tf.constant(seed, tf.int64), example["position"]])
        return {
            "image": train_view(example["image"], augmentation, resize, crop, flip),
            "label": tf.one_hot(example["label"], num_classes),
            "position": example["position"],
        }

    def mix(batch: dict[str, Any]) -> dict[str, Any]:
        # Folded once more, so that λ is independent of the first image's crop.
        seeds = tf.stack([tf.constant(seed, tf.int64), batch["position"][0]])
        seeds = tf.random.experimental.stateless_fold_in(seeds, batch_size)
        image, label = mixup(batch["image"], batch["label"], float(mixup_alpha or 0), seeds)
        return {**batch, "image": image, "label": label}

    dataset = source.stream(split, seed=seed, start=start, indices=indices)
    dataset = parallel(dataset, view).batch(batch_size, drop_remainder=True)
    if mixup_alpha:
        dataset = dataset.map(mix)
    return dataset.prefetch(tf.data.AUTOTUNE)


def pretrain_batches(
    source: Source,
    split: str,
    part: Part,
    *,
    size: int,
    num_classes: int,
    seed: int,
    indices: ArrayLike | None = None,
    flip: bool = True,
    start: int = 0,
    service: str = "",
) -> tf.data.Dataset:
    """Pre-training batches without end: shuffled, Inception crops, mirrored at random.

    Examples have positions as in `train_batches`. All workers together read positions 0, 1, 2, …
    of one stream. Where the source has encoded images, decoding and cropping are one step.

    Args:
        source: the data, with one label an image or several.
        split: one of `source.splits`.
        part: which worker this is, and the examples of one batch.
        size: side of the images in pixels.
        num_classes: length of the labels, at least `source.num_classes`.
        seed: 0 or more.
        indices: [n] int, the examples to train on; all of the split when left out.
        flip: mirror half of the images.
        start: the first position to deliver.
        service: address of a tf.data service that does the work, such as "grpc://HOST:5050". Its
            workers share the epochs among them: the order is no longer a function of the seed, and
            positions count what was delivered.

    Returns:
        An infinite dataset of dict(image float32 [batch, size, size, 3] in [-1, 1],
        label float32 [batch, num_classes], position int64 [batch]), static shapes.

    Raises:
        ValueError: for sizes or names that cannot be; with `service`, for a source that is not made
            of TensorFlow operations only.

    Example:
        >>> from bit_keras.sources import load_source
        >>> source = load_source("tfds:clipart")  # doctest: +SKIP
        >>> batches = pretrain_batches(source, "train", Part(0, 1, 64), size=64,
        ...                            num_classes=source.num_classes, seed=0)  # doctest: +SKIP
    """
    _check_batch(source, part.batch_size, num_classes)
    if size < 1:
        raise ValueError(f"`size` must be at least 1. Received: {size}")
    shard = (0, 1) if service else (part.worker, part.workers)
    order: dict[str, Any] = {"seed": seed, "start": start, "indices": indices, "shard": shard}
    dataset = source.encoded_stream(split, **order)
    if dataset is None and service:
        raise ValueError(
            f"A tf.data service cannot read {source.name}. Write it to record shards first: "
            f"bit-keras data --source={source.name} --output=DIR, then --data=tfrecord:DIR"
        )
    if dataset is None:
        dataset = source.stream(split, **order)

    def view(example: dict[str, Any]) -> dict[str, Any]:
        augmentation = tf.stack([tf.constant(seed, tf.int64), example["position"]])
        if "encoded" in example:
            image = decode_and_inception_crop(example["encoded"], augmentation, size, flip)
        else:
            image = inception_crop(example["image"], augmentation, size, flip)
        label = example["label"]
        if not source.multi_label:
            label = tf.one_hot(label, num_classes)
        else:
            label = tf.pad(label, [[0, num_classes - source.num_classes]])
        return {
            "image": image,
            "label": tf.ensure_shape(label, [num_classes]),
            "position": example["position"],
        }

    dataset = parallel(dataset, view)
    if service:
        told = (source.name, split, size, num_classes, seed, flip, _fingerprint(indices))
        dataset = _served(dataset, service, start + part.worker, part.workers, str(told))
    return dataset.batch(part.batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def _fingerprint(indices: ArrayLike | None) -> str:
    if indices is None:
        return "all"
    return hashlib.sha256(np.asarray(indices, np.int64).tobytes()).hexdigest()[:16]


def _served(
    dataset: tf.data.Dataset, address: str, first: int, step: int, what: str
) -> tf.data.Dataset:
    """The elements of a data set as a tf.data service delivers them, with positions by number.

    All workers of a training draw from one job of the service, which goes by `what` is read: two
    trainings that read something else must not get each other's batches.
    """
    dataset = dataset.apply(
        tf.data.experimental.service.distribute(
            processing_mode=tf.data.experimental.service.ShardingPolicy.DYNAMIC,
            service=address if "://" in address else f"grpc://{address}",
            job_name=f"pretrain {what}",
        )
    )
    return dataset.enumerate().map(
        lambda number, example: {**example, "position": first + number * step}
    )


def eval_batches(
    source: Source,
    split: str,
    *,
    batch_size: int,
    size: int,
    num_classes: int | None = None,
    indices: ArrayLike | None = None,
) -> tf.data.Dataset:
    """Every example exactly once, in order, in batches of one shape.

    The last batch is filled up with zeros of weight 0: summing metrics with the weights counts
    every example once, and none is dropped.

    Args:
        source: the data.
        split: one of `source.splits`.
        batch_size: examples of one batch, over all replicas.
        size: side in pixels to which images are resized, as squares; the HyperRule's crop size.
        num_classes: of the model, at least `source.num_classes`; unchecked when left out.
        indices: [n] int, the examples to evaluate on; all of the split when left out.

    Returns:
        A finite dataset of dict(image float32 [batch_size, size, size, 3] in [-1, 1], label int64
        [batch_size], index int64 [batch_size], weight float32 [batch_size], 1 or 0), static shapes.

    Raises:
        ValueError: for sizes or names that cannot be.

    Example:
        >>> from bit_keras.sources import load_source
        >>> source = load_source("embedded:openclipart-mini")  # doctest: +SKIP
        >>> batches = eval_batches(source, "test", batch_size=64, size=128)  # doctest: +SKIP
        >>> sum(float(tf.reduce_sum(b["weight"])) for b in batches)  # doctest: +SKIP
        173.0
    """
    _check_batch(source, batch_size, num_classes)
    if size < 1:
        raise ValueError(f"`size` must be at least 1. Received: {size}")

    def view(example: dict[str, Any]) -> dict[str, Any]:
        return {
            "image": eval_view(example["image"], size),
            "label": example["label"],
            "index": example["index"],
            "weight": tf.ones([]),
        }

    def fill_up(batch: dict[str, Any]) -> dict[str, Any]:
        missing = batch_size - tf.shape(batch["weight"])[0]

        def padded(x: tf.Tensor) -> tf.Tensor:
            x = tf.pad(x, [[0, missing]] + [[0, 0]] * (len(x.shape) - 1))
            return tf.ensure_shape(x, [batch_size, *x.shape[1:]])

        return {key: padded(value) for key, value in batch.items()}

    dataset = parallel(source.examples(split, indices), view)
    return dataset.batch(batch_size).map(fill_up).prefetch(tf.data.AUTOTUNE)


def _check_batch(source: Source, batch_size: int, num_classes: int | None) -> None:
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1. Received: {batch_size}")
    if num_classes is not None and num_classes < source.num_classes:
        raise ValueError(
            f"`num_classes` must be at least the {source.num_classes} of {source.name}. "
            f"Received: {num_classes}"
        )
