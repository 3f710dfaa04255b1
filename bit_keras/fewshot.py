"""Few-shot transfer: a few examples of each class, several draws, median and spread."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from bit_keras.options import FewshotOptions
from bit_keras.runs import RunFolder
from bit_keras.sources import Source, few_shot_indices, load_source
from bit_keras.task import open_task
from bit_keras.text import table
from bit_keras.transfer import (
    prepare_devices,
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
    return few_shot_indices(source.labels(split), shots, seed, source.class_names)


def _finished(folder: RunFolder) -> float | None:
    """Accuracy of a draw that was done before."""
    if not folder.evaluation.is_file():
        return None
    return float(json.loads(folder.evaluation.read_text())["top1"])


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
            settings = {**task.describe(), "model": options.model, "weights": options.weights}
            settings |= {"data": options.data, "shots": shots, "seed": seed}
            run.claim(settings, resume=options.resume, overwrite=options.overwrite)
            score = _finished(run)
            if score is None:
                steps = task.rule.steps
                _, found = train_task(options, task, run, strategy, checkpoint_every=steps)
                write_evaluation(run.path, found, options.data, task.eval_split, source)
                score = found.top1
            print(f"{shots} shots, seed {seed}: {score:.1%}", file=sys.stderr)
            scores.append(score)
        results.append(Shots(shots, tuple(scores)))
    RunFolder.write_json(root / "fewshot.json", {str(r.shots): r.top1 for r in results})
    return results
