"""What a transfer learns: the data, the examples of it, and the rule that follows from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from bit_keras.options import TransferOptions
from bit_keras.recipes import TransferRule, hyperrule
from bit_keras.sources import Source, load_source

PROBED_IMAGES = 32  # images looked at for the task's typical size


@dataclass(frozen=True)
class Task:
    """What is learned: the data, the examples of it, and the settings that follow from them.

    Attributes:
        source: the data set.
        train_split: name of the split to train on.
        eval_split: name of the split to evaluate on.
        indices: the training examples, int64 [N]; None for the whole split.
        rule: schedule, resolution and MixUp.
    """

    source: Source
    train_split: str
    eval_split: str
    indices: np.ndarray | None
    rule: TransferRule

    @property
    def num_examples(self) -> int:
        """Number of training examples."""
        return self.source.splits[self.train_split] if self.indices is None else len(self.indices)

    def describe(self) -> dict[str, Any]:
        """What was resolved, JSON-ready."""
        return {
            "rule": dataclasses.asdict(self.rule),
            "train_split": self.train_split,
            "eval_split": self.eval_split,
            "num_examples": self.num_examples,
            "class_names": list(self.source.class_names),
        }


def split_names(source: Source, options: Any) -> tuple[str, str]:
    """Names of the splits to train and to evaluate on, from the options of a training."""
    evaluated = options.eval_split or next(
        (name for name in ("test", "val", "validation") if name in source.splits), ""
    )
    for flag, name in (("train_split", options.train_split), ("eval_split", evaluated)):
        if name not in source.splits:
            raise ValueError(
                f"{options.data} has no split {name!r}; it has {', '.join(source.splits)}. "
                f"Name one with --{flag}."
            )
    return options.train_split, evaluated


def typical_size(source: Source, split: str) -> tuple[int, int]:
    """Median height and width in pixels of some images of a split, as `hyperrule` wants them.

    The images are spread evenly over the split, whose order is often that of the classes; a source
    that only streams gives its first ones.

    Raises:
        ValueError: when not one of them can be read.
    """
    count = source.splits[split]
    spread = np.unique(np.linspace(0, count - 1, PROBED_IMAGES).astype(np.int64))
    probed = source.examples(split, spread if source.random_access else None).take(PROBED_IMAGES)
    shapes = [tuple(tf.shape(example["image"]).numpy()[:2]) for example in probed]
    if not shapes:
        raise ValueError(f"Not one image of the split {split!r} could be read. Check the files.")
    height, width = np.median(np.array(shapes), axis=0)
    return int(height), int(width)


def check_class_names(source: Source) -> None:
    """Refuses, before hours of training, names that no module could carry as labels."""
    for name in source.class_names:
        if name.splitlines() != [name] or name != name.encode("utf-8", "replace").decode():
            raise ValueError(
                f"The class name {name!r} of {source.name} is not one line of Unicode text. "
                "Rename the class."
            )


def _override(rule: TransferRule, options: TransferOptions) -> TransferRule:
    """The rule with what the options set by hand."""
    if options.batch_size or options.steps:
        rule = rule.scaled(options.batch_size or rule.batch_size, steps=options.steps)
    given = {
        name: value
        for name in ("resize", "crop", "learning_rate", "mixup_alpha")
        if (value := getattr(options, name)) is not None
    }
    if given:
        told = ", ".join(f"{name} {value}" for name, value in given.items())
        rule = replace(rule, **given, derivation=f"{rule.derivation} Set by hand: {told}.")
    if not rule.mixup_alpha:
        rule = replace(rule, mixup_alpha=None)
    if rule.crop > rule.resize:
        raise ValueError(
            f"The crop of {rule.crop} is larger than the resized image of {rule.resize} pixels. "
            "Set --resize and --crop so that the crop fits in."
        )
    return rule


def open_task(
    options: TransferOptions,
    draw: Callable[[Source, str], np.ndarray] | None = None,
    source: Source | None = None,
) -> Task:
    """Opens the data and derives the rule from it.

    Args:
        options: of the transfer.
        draw: chooses training examples from (source, split); all of them when left out.
        source: the data, when it is open already.

    Raises:
        ValueError: for data, splits or settings that do not fit; FileNotFoundError for no data.
    """
    if source is None:
        source = load_source(options.data, seed=options.seed, strict=options.strict)
    check_class_names(source)
    if source.multi_label:
        raise ValueError(
            f"Images of {source.name} have several labels, and the HyperRule is for tasks with "
            "one. Take a data set with one label an image, or pre-train: bit-keras pretrain."
        )
    train_split, eval_split = split_names(source, options)
    indices = draw(source, train_split) if draw else None
    count = source.splits[train_split] if indices is None else len(indices)
    height, width = typical_size(source, train_split)
    rule = hyperrule(count, height, width, options.model, options.variant)
    return Task(source, train_split, eval_split, indices, _override(rule, options))
