"""Upstream training with the paper's recipe: one large labelled set, one model, one run folder."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from bit_keras.data import pretrain_batches
from bit_keras.distribute import Part, Workers
from bit_keras.evaluate import Evaluation, MultiLabelEvaluation, Predictor
from bit_keras.exclusions import read_exclusions
from bit_keras.health import LossWindows
from bit_keras.health_report import write_report
from bit_keras.layers import kernels
from bit_keras.losses import prior_bias, sigmoid_loss, softmax_loss
from bit_keras.memory import check_fits, machine_bytes
from bit_keras.optimizers import pretrain_sgd
from bit_keras.presets import get_preset
from bit_keras.pretrain_options import PretrainOptions
from bit_keras.remat import rematerialised
from bit_keras.resnet import HEAD, ResNetV2
from bit_keras.runs import RunFolder
from bit_keras.sources import Source, load_source
from bit_keras.task import check_class_names, split_names
from bit_keras.trainer import Trainer
from bit_keras.transfer import (
    evaluate_on,
    prepare_devices,
    report_skipped,
    run_record,
    write_weights,
)
from bit_keras.upstream import PretrainRecipe

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


@dataclass(frozen=True)
class Upstream:
    """What a pre-training learns: the data, the examples of it, and the resolved recipe.

    Attributes:
        source: the data set.
        train_split: name of the split to train on.
        eval_split: name of the split to evaluate on.
        indices: the training examples, int64 [N]; None for the whole split.
        recipe: all settings.
    """

    source: Source
    train_split: str
    eval_split: str
    indices: np.ndarray | None
    recipe: PretrainRecipe

    def describe(self) -> dict[str, Any]:
        """What was resolved, JSON-ready."""
        return {
            "recipe": _as_json(self.recipe),
            "train_split": self.train_split,
            "eval_split": self.eval_split,
            "num_examples": self.recipe.num_examples,
            "class_names": list(self.source.class_names),
            "multi_label": self.recipe.multi_label,
            "image_size": self.recipe.image_size,
        }


def _as_json(recipe: PretrainRecipe) -> dict[str, Any]:
    derived = {name: getattr(recipe, name) for name in ("steps", "boundaries", "learning_rate")}
    return {**dataclasses.asdict(recipe), **derived}


def open_upstream(options: PretrainOptions) -> Upstream:
    """Opens the data and resolves the recipe for it.

    Raises:
        ValueError: for data, splits or settings that do not fit; FileNotFoundError for no data.
    """
    source = load_source(options.data, seed=options.seed, strict=options.strict)
    check_class_names(source)
    train_split, eval_split = split_names(source, options)
    indices: np.ndarray | None = None
    if options.exclude:
        excluded = read_exclusions(options.exclude, source).get(train_split, ())
        indices = np.setdiff1d(np.arange(source.splits[train_split]), excluded)
    count = source.splits[train_split] if indices is None else len(indices)
    recipe = options.recipe(count, source.num_classes, source.multi_label)
    if source.multi_label and not recipe.multi_label:
        raise ValueError(
            f"Images of {source.name} have several labels, for which softmax is no loss. "
            "Leave --loss out, or pass --loss=sigmoid."
        )
    return Upstream(source, train_split, eval_split, indices, recipe)


def make_model(options: PretrainOptions, upstream: Upstream) -> ResNetV2:
    """A model with random weights; for the sigmoid, its head starts at the classes' prior."""
    architecture = get_preset(options.model).architecture
    recipe = upstream.recipe
    model = ResNetV2(
        architecture.depth,
        architecture.width,
        recipe.num_classes,
        dtype=POLICIES[options.precision],
        norm=options.norm,
        weight_standardization=options.weight_standardization,
    )
    if recipe.multi_label:
        counts = upstream.source.class_counts(upstream.train_split)
        examples = upstream.source.splits[upstream.train_split]
        model.get_layer(HEAD).bias.assign(prior_bias(counts, examples))
    return model


def make_trainer(
    options: PretrainOptions, upstream: Upstream, run: RunFolder, strategy: tf.distribute.Strategy
) -> Trainer:
    """The training loop of a pre-training, at its beginning."""
    recipe = upstream.recipe
    with strategy.scope():
        model = make_model(options, upstream)
        optimizer = pretrain_sgd(recipe, loss_scaling=options.precision == "float16")
    return Trainer(
        model,
        optimizer,
        strategy,
        run,
        learning_rate=recipe.learning_rate_at,
        batch_size=recipe.batch_size,
        steps_per_loop=options.steps_per_loop,
        windows=LossWindows.for_run(recipe.steps),
        loss=sigmoid_loss if recipe.multi_label else softmax_loss,
        forward=rematerialised(model) if options.remat else None,
        microbatches=options.microbatches,
        watched=kernels(model),
    )


def evaluate_upstream(
    upstream: Upstream, model: ResNetV2, workers: Workers
) -> Evaluation | MultiLabelEvaluation:
    """Measures a model on every readable example of the evaluation split, on one device."""
    source, split = upstream.source, upstream.eval_split
    indices = np.arange(source.splits[split])[workers.index :: workers.count]
    # The default strategy: each worker is alone with its examples.
    predictor = Predictor(model, tf.distribute.get_strategy())
    return evaluate_on(predictor, source, split, upstream.recipe.image_size, indices=indices)


def _scores(upstream: Upstream, model: ResNetV2, workers: Workers) -> dict[str, float]:
    """The shares of an evaluation over all workers."""
    found = evaluate_upstream(upstream, model, workers)
    names = ["top1", "top5"] + ["label_precision"] * isinstance(found, MultiLabelEvaluation)
    # Millionths, because workers exchange whole numbers.
    sums = [round(1e6 * getattr(found, name) * found.examples) for name in names]
    *totals, examples = workers.exchange([*sums, found.examples]).sum(0)
    return {n: float(total) / 1e6 / examples for n, total in zip(names, totals, strict=True)}


def pretrain(options: PretrainOptions) -> dict[str, float]:
    """Pre-trains a model and leaves a run folder.

    The folder (`options.output`) holds config.json (options and the resolved recipe), metrics.jsonl
    and tensorboard/ (every step), checkpoints/, model.npz and model.keras, evaluation.json,
    health.png and report.md. Of several workers only the chief writes.

    Returns:
        Shares, 0…1, on the evaluation split: top1, top5, and label_precision of multi-label data.

    Raises:
        ValueError: for data, model or settings that do not fit together.
        OSError: for missing data, or a full disk.
        NonFiniteLossError: when the loss becomes NaN; the last good checkpoint is kept.

    Example:
        >>> options = PretrainOptions(data="tfds:clipart", output="runs/xs", model="BiT-XS-R26x0.5")
        >>> pretrain(options)["top1"]  # doctest: +SKIP
        0.7
    """
    strategy = prepare_devices(options)
    workers = Workers(strategy)
    upstream = open_upstream(options)
    run = RunFolder(options.output)
    paper = options.recipe_of_paper(upstream.recipe)
    settings = {
        "options": options.settings(),
        **upstream.describe(),
        "recipe_of_paper": _as_json(paper),
    }
    if not workers.chief:
        return _pretrain(options, upstream, run, strategy)
    with run.claim(settings, resume=options.resume, overwrite=options.overwrite):
        return _pretrain(options, upstream, run, strategy)


def _pretrain(
    options: PretrainOptions, upstream: Upstream, run: RunFolder, strategy: tf.distribute.Strategy
) -> dict[str, float]:
    """Fills a run folder that is ours, or our chief's."""
    recipe = upstream.recipe
    _check_memory(options, recipe, strategy)
    trainer = make_trainer(options, upstream, run, strategy)
    if options.resume and trainer.restore():
        print(f"Going on from step {trainer.step} of {recipe.steps}.", file=sys.stderr)

    def batches(start: int, part: Part) -> tf.data.Dataset:
        return pretrain_batches(
            upstream.source,
            upstream.train_split,
            part,
            size=recipe.image_size,
            num_classes=recipe.num_classes,
            seed=options.seed,
            indices=upstream.indices,
            flip=options.flip,
            start=start,
            service=options.data_service,
        )

    def scores() -> dict[str, float]:
        return _scores(upstream, trainer.model, trainer.workers)

    every = options.evaluate_every
    trainer.train(
        batches,
        recipe.steps,
        checkpoint_every=options.checkpoint_every or min(2_000, max(100, -(-recipe.steps // 50))),
        evaluate=scores,
        evaluate_every=-(-recipe.steps // 30) if every is None else every,
        progress=options.progress,
    )
    found = scores()
    if trainer.workers.chief:
        _write(options, upstream, run, trainer.model, found)
    return found


def _check_memory(
    options: PretrainOptions, recipe: PretrainRecipe, strategy: tf.distribute.Strategy
) -> None:
    """Refuses, on the CPU, a batch that cannot fit; a GPU or TPU says so itself."""
    if options.tpu or options.remat or tf.config.list_logical_devices("GPU"):
        return
    at_once = recipe.batch_size // options.microbatches // Workers(strategy).count
    architecture = get_preset(options.model).architecture
    check_fits(architecture, recipe.image_size, max(1, at_once), machine_bytes())


def _write(
    options: PretrainOptions,
    upstream: Upstream,
    run: RunFolder,
    model: ResNetV2,
    found: dict[str, float],
) -> None:
    write_weights(run, model)
    record = run_record(options.data, upstream.eval_split, upstream.source) | found
    RunFolder.write_json(run.evaluation, record)
    write_report(run)
    report_skipped(upstream.source, run.path)
