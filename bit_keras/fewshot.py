"""Few-shot transfer: a few examples of each class, several draws, median and spread."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import tensorflow as tf

from bit_keras.options import FewshotOptions
from bit_keras.runs import RunFolder
from bit_keras.sources import Source, few_shot_indices, load_source
from bit_keras.task import Task, open_task
from bit_keras.text import table
from bit_keras.transfer import (
    prepare_devices,
    report_skipped,
    train_task,
    write_evaluation,
)


@dataclass(frozen=True)
class Shots:
    """Top-1 accuracy with one number of shots over all draws.

    Attributes:
        shots: examples of each class.
        top1: accuracy of each draw, 0…1, in the order of the seeds.
    """

    shots: int
    top1: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle draw, as in the paper's Figure 3."""
        return float(np.median(self.top1))


def summary(results: list[Shots]) -> str:
    """Accuracies as a table, in per cent.

    Example:
        >>> print(summary([Shots(5, (0.5, 0.25, 0.75))]))
        shots  median  lowest  highest  draws
        -----  ------  ------  -------  -----
            5    50.0    25.0     75.0      3
    """
    rows = [
        (r.shots, *(f"{100 * x:.1f}" for x in (r.median, min(r.top1), max(r.top1))), len(r.top1))
        for r in results
    ]
    return table(("shots", "median", "lowest", "highest", "draws"), rows, "rrrrr")


def _draw(shots: int, seed: int, source: Source, split: str) -> np.ndarray:
    """A balanced draw of readable examples; another one for those that cannot be decoded."""
    labels = source.labels(split)
    while True:
        drawn = few_shot_indices(labels, shots, seed, source.class_names)
        readable = {int(example["index"]) for example in source.examples(split, drawn)}
        broken = [index for index in drawn if int(index) not in readable]
        if not broken:
            return drawn
        labels[broken] = -1  # of no class


def _finished(folder: RunFolder) -> float | None:
    """Accuracy of a draw that was done before."""
    if not folder.evaluation.is_file():
        return None
    return float(json.loads(folder.evaluation.read_text())["top1"])


def _train(
    options: FewshotOptions, task: Task, run: RunFolder, strategy: tf.distribute.Strategy
) -> float:
    """Trains on one draw, evaluates, and keeps the numbers but not the weights."""
    _, found = train_task(options, task, run, strategy, checkpoint_every=task.rule.steps)
    write_evaluation(run.path, found, options.data, task.eval_split, task.source)
    shutil.rmtree(run.checkpoints)
    return found.top1


def fewshot(options: FewshotOptions) -> list[Shots]:
    """Fine-tunes on every number of shots with every seed.

    Each draw is balanced, without replacement and seeded; only labels are held in memory. The
    folder `options.output` gets a sub-folder a draw and fewshot.json.

    Raises:
        ValueError: when a class has too few examples, or as `finetune`.

    Example:
        >>> options = FewshotOptions(data="tfds:cifar10", output="runs/few", shots=(5,))
        >>> print(summary(fewshot(options)))  # doctest: +SKIP
    """
    strategy = prepare_devices(options)
    source = load_source(options.data, seed=options.seed, strict=options.strict)
    root = Path(options.output)
    results = []
    for shots in options.shots:
        scores = []
        for seed in options.seeds:
            run = RunFolder(root / f"{shots}-shot-seed-{seed}")
            task = open_task(options, partial(_draw, shots, seed), source)
            settings = {"options": options.settings(), **task.describe()}
            settings |= {"shots": shots, "draw": seed}
            with run.claim(settings, resume=options.resume, overwrite=options.overwrite):
                score = _finished(run)
                if score is None:
                    score = _train(options, task, run, strategy)
            print(f"{shots} shots, seed {seed}: {score:.1%}", file=sys.stderr)
            scores.append(score)
        results.append(Shots(shots, tuple(scores)))
    report_skipped(source, root)
    RunFolder.write_json(root / "fewshot.json", {str(r.shots): r.top1 for r in results})
    return results
