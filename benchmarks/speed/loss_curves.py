"""Part of the benchmark: does training in bfloat16 lose as training in float32 does?

    python -m benchmarks.speed.loss_curves '{"model": "BiT-S-R50x1", …}'

is its own contestant, which trains.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from benchmarks.speed.contest import Contestant, started
from benchmarks.speed.results import Curves, Part, Table, Target
from benchmarks.speed.worker import serve

DATA = "embedded:openclipart-mini"


@dataclass(frozen=True)
class Setting:
    """What is trained.

    Attributes:
        model: a preset whose recipe is softmax's.
        side: of the images, pixels.
        batch: images of an update.
        steps: updates.
        base_learning_rate: for 256 images.
        warmup: updates of linear warm-up.
        seeds: of weights, order and augmentation.
        window: updates over which a loss is averaged.
    """

    model: str
    side: int
    batch: int
    steps: int
    base_learning_rate: float
    warmup: int
    seeds: tuple[int, ...]
    window: int


FULL = Setting("BiT-S-R50x1", 96, 16, 200, 0.08, 50, (0, 1, 2), 20)
QUICK = Setting("BiT-XS-R26x0.5", 48, 16, 40, 0.08, 10, (0, 1), 10)


def train(setting: Setting, seed: int, precision: str) -> list[float]:
    """The loss of every update, of the trainer itself on the embedded images."""
    import tensorflow as tf

    from bit_keras.data import pretrain_batches
    from bit_keras.distribute import Part as Share
    from bit_keras.pretrain import make_trainer, open_upstream
    from bit_keras.pretrain_options import PretrainOptions
    from bit_keras.runs import RunFolder
    from bit_keras.transfer import prepare_devices

    with tempfile.TemporaryDirectory() as folder:
        options = PretrainOptions(
            data=DATA,
            output=folder,
            model=setting.model,
            epochs=setting.steps,  # more than are done: the rate does not fall within them
            batch_size=setting.batch,
            warmup_steps=setting.warmup,
            base_learning_rate=setting.base_learning_rate,
            image_size=setting.side,
            loss="softmax",
            precision=precision,  # type: ignore[arg-type]
            seed=seed,
            progress=False,
        )
        strategy = prepare_devices(options)
        upstream, run = open_upstream(options), RunFolder(folder)

        def batches(start: int, part: Share) -> tf.data.Dataset:
            recipe = upstream.recipe
            return pretrain_batches(
                upstream.source, upstream.train_split, part, size=recipe.image_size,
                num_classes=recipe.num_classes, seed=seed, start=start,
            )  # fmt: skip

        trainer = make_trainer(options, upstream, run, strategy)
        trainer.train(batches, setting.steps, checkpoint_every=setting.steps, progress=False)
        return [record["loss"] for record in run.read_metrics() if "loss" in record]


def smoothed(losses: Sequence[float], window: int) -> np.ndarray:
    """Means over the last `window` updates, from the first whole window on.

    Example:
        >>> smoothed([1, 2, 3, 4], 2).tolist()
        [1.5, 2.5, 3.5]
    """
    return np.convolve(losses, np.ones(window) / window, mode="valid")


@dataclass(frozen=True)
class Comparison:
    """bfloat16 beside float32, of smoothed losses.

    Attributes:
        noise: mean distance of two seeds in float32, of all pairs.
        distance: mean distance of bfloat16 from float32 of the same seed.
        lead: mean of bfloat16's loss above float32's of the same seed; negative when below.
    """

    noise: float
    distance: float
    lead: float


def compare(exact: Sequence[Sequence[float]], half: Sequence[float], window: int) -> Comparison:
    """Compares curves.

    Args:
        exact: losses in float32 of each seed.
        half: losses in bfloat16 of the first seed.
        window: of the means.

    Example:
        >>> compare([[1, 1], [3, 3]], [2, 2], 1)
        Comparison(noise=2.0, distance=1.0, lead=1.0)
    """
    curves = [smoothed(losses, window) for losses in exact]
    noise = float(np.mean([np.abs(a - b).mean() for a, b in combinations(curves, 2)]))
    apart = smoothed(half, window) - curves[0]
    return Comparison(noise, float(np.abs(apart).mean()), float(apart.mean()))


def measure(quick: bool) -> Part:
    """Trains in float32 with several seeds and once in bfloat16, and compares the losses.

    Args:
        quick: a smaller network, and fewer updates.
    """
    setting = QUICK if quick else FULL
    contestant = Contestant("bit_keras", "benchmarks.speed.loss_curves", asdict(setting))
    found: dict[str, list[float]] = {}
    with started([contestant]) as (process,):
        for precision, seeds in (("float32", setting.seeds), ("bfloat16", setting.seeds[:1])):
            for seed in seeds:
                name = f"{precision}, seed {seed}"
                print(f"loss curves: {name}", file=sys.stderr)
                found[name] = process.ask("train", seed=seed, precision=precision)
        versions = process.about["versions"]
    *exact, half = found.values()
    comparison = compare(exact, half, setting.window)
    return Part(
        "loss_curves",
        "Loss in bfloat16",
        f"{setting.model} from random weights, {setting.steps} updates of {setting.batch} real "
        f"images of {setting.side}² ({DATA}, its own labels, Inception crops and random flips), "
        f"learning rate {setting.base_learning_rate * setting.batch / 256:g} after {setting.warmup}"
        " updates of warm-up. A seed fixes weights, order and crops. Losses are means over "
        f"{setting.window} updates. The noise is how far two seeds in float32 are apart, the mean "
        "of all pairs and updates; bfloat16 may be as far from float32 with the same seed.",
        tables=[_table(found, setting, comparison)],
        targets=[] if quick else [target(comparison)],
        versions=versions,
        curves=[_curves(found, setting)],
    )


def target(comparison: Comparison) -> Target:
    """The last piece of target 4."""
    return Target(
        "4",
        "training, bf16: loss within the noise of float32 over 200 updates",
        f"distance {comparison.distance:.3f}, noise {comparison.noise:.3f}",
        comparison.distance <= comparison.noise,
    )


def _table(found: dict[str, list[float]], setting: Setting, comparison: Comparison) -> Table:
    rows = []
    for name, losses in found.items():
        curve = smoothed(losses, setting.window)
        rows.append((name, *(f"{curve[i]:.3f}" for i in (0, len(curve) // 2, -1))))
    rows += [
        ("noise of float32: distance of two seeds", "", "", f"{comparison.noise:.3f}"),
        ("distance of bfloat16, same seed", "", "", f"{comparison.distance:.3f}"),
        ("bfloat16 above float32, same seed", "", "", f"{comparison.lead:+.3f}"),
    ]
    header = ("loss, mean of a window", "first", "middle", "last, or of all")
    return Table(f"{setting.model}, {setting.steps} updates", header, rows, "lrrr")


def _curves(found: dict[str, list[float]], setting: Setting) -> Curves:
    series = []
    for name, losses in found.items():
        values = [round(float(value), 5) for value in smoothed(losses, setting.window)]
        series.append((name, list(range(setting.window, setting.steps + 1)), values))
    y = f"softmax cross-entropy, mean of {setting.window} updates"
    return Curves(f"{setting.model} at {setting.side}², batch {setting.batch}", "update", y, series)


def main() -> None:
    """Serves."""
    from benchmarks.speed.versions import VERSIONS

    setting: dict[str, Any] = json.loads(sys.argv[1])
    serve(
        {"train": lambda seed, precision: train(Setting(**setting), seed, precision)},
        versions=VERSIONS,
    )


if __name__ == "__main__":
    main()
