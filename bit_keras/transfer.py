"""Fine-tuning with the BiT-HyperRule: one data set, one model, one run folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from bit_keras.data import eval_batches, train_batches
from bit_keras.distribute import Part, make_strategy, split_cpu
from bit_keras.evaluate import (
    Evaluation,
    MultiLabelEvaluation,
    Predictor,
    measure,
    measure_multi_label,
)
from bit_keras.export import export_module
from bit_keras.files import replacing
from bit_keras.memory import check_fits, machine_bytes
from bit_keras.optimizers import sgd
from bit_keras.options import FinetuneOptions, TransferOptions
from bit_keras.presets import get_preset
from bit_keras.report import plot_confusion, plot_learning_curve
from bit_keras.resnet import ResNetV2
from bit_keras.runs import RunFolder
from bit_keras.sources import Source
from bit_keras.task import Task, open_task
from bit_keras.trainer import Trainer
from bit_keras.version import __version__
from bit_keras.weights import save_npz

LEAST_INTERVAL = 20  # updates between checkpoints, where nothing else is said
EVALUATION_BATCH = 64  # images at a time; does not change any result


def prepare_devices(options: Any) -> tf.distribute.Strategy:
    """Sets devices, seed and precision as the options say, and returns the strategy."""
    if options.logical_cpus:
        split_cpu(options.logical_cpus)
    keras.utils.set_random_seed(options.seed)
    return make_strategy(options.strategy, getattr(options, "tpu", ""))


def _model(options: TransferOptions, num_classes: int) -> ResNetV2:
    weights = None if options.weights == "none" else options.weights
    return ResNetV2.from_preset(options.model, num_classes, weights, dtype=options.precision)


def evaluate_on(
    predictor: Predictor,
    source: Source,
    split: str,
    size: int,
    *,
    indices: np.ndarray | None = None,
    batch_size: int = EVALUATION_BATCH,
    progress: bool = False,
) -> Evaluation | MultiLabelEvaluation:
    """Accuracy of a model on every readable example of a split, resized to `size` × `size`.

    Args:
        predictor: of the model.
        source: the data; how it is measured depends on whether its examples have several labels.
        split: one of `source.splits`.
        size: side of the images in pixels.
        indices: [n] int, the examples to evaluate on; all of the split when left out.
        batch_size: examples at a time; does not change the result.
        progress: show a bar on stderr.
    """
    replicas = predictor.strategy.num_replicas_in_sync
    batch_size = -(-batch_size // replicas) * replicas
    batches = eval_batches(source, split, batch_size=batch_size, size=size, indices=indices)
    total = source.splits[split] if indices is None else len(indices)
    found = predictor(batches, progress=progress, total=total)
    return measure_multi_label(found) if source.multi_label else measure(found, source.class_names)


def train_task(
    options: TransferOptions,
    task: Task,
    run: RunFolder,
    strategy: tf.distribute.Strategy,
    *,
    checkpoint_every: int,
    evaluate_every: int = 0,
) -> tuple[ResNetV2, Evaluation]:
    """Trains a model on a task, from the run's last checkpoint on, and evaluates it at the end."""
    rule = task.rule
    if not tf.config.list_logical_devices("GPU"):  # a GPU says itself when its memory runs out
        architecture = get_preset(options.model).architecture
        check_fits(architecture, rule.crop, rule.batch_size, machine_bytes())
    with strategy.scope():
        model = _model(options, task.source.num_classes)
        optimizer = sgd(rule)
    trainer = Trainer(
        model,
        optimizer,
        strategy,
        run,
        learning_rate=rule.learning_rate_at,
        batch_size=rule.batch_size,
        steps_per_loop=options.steps_per_loop,
    )
    if options.resume and trainer.restore():
        print(f"Going on from step {trainer.step} of {rule.steps}.", file=sys.stderr)

    def batches(start: int, part: Part) -> tf.data.Dataset:
        return train_batches(
            task.source,
            task.train_split,
            batch_size=part.batch_size,
            resize=rule.resize,
            crop=rule.crop,
            num_classes=task.source.num_classes,
            seed=options.seed,
            indices=task.indices,
            flip=options.flip,
            mixup_alpha=rule.mixup_alpha,
            start=start,
        )

    predictor = Predictor(model, strategy)

    def scores() -> dict[str, float]:
        found = evaluate_on(predictor, task.source, task.eval_split, rule.crop)
        return {"top1": found.top1, "top5": found.top5}

    trainer.train(
        batches,
        rule.steps,
        checkpoint_every=checkpoint_every,
        evaluate=scores,
        evaluate_every=evaluate_every,
        progress=options.progress,
    )
    evaluation = evaluate_on(
        predictor, task.source, task.eval_split, rule.crop, progress=options.progress
    )
    assert isinstance(evaluation, Evaluation)  # a task's examples have one label each
    return model, evaluation


def run_record(data: str, split: str, source: Source) -> dict[str, Any]:
    """What was evaluated and with which versions, JSON-ready."""
    return {
        "data": data,
        "split": split,
        "skipped_files": len(source.skipped),
        "bit_keras": __version__,
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
    }


def write_evaluation(
    folder: Path,
    evaluation: Evaluation | MultiLabelEvaluation,
    task_name: str,
    split: str,
    source: Source,
) -> None:
    """Writes evaluation.json and, for one label an example, confusion.png into a folder."""
    record = run_record(task_name, split, source) | evaluation.as_json()
    RunFolder.write_json(folder / "evaluation.json", record)
    if isinstance(evaluation, MultiLabelEvaluation):
        return
    title = f"{task_name}, {split}: {evaluation.top1:.1%} of {evaluation.examples}"
    plot_confusion(evaluation.confusion, source.class_names, folder / "confusion.png", title)


def report_skipped(source: Source, folder: Path) -> None:
    """Tells which files were left out, and writes all names and reasons to skipped.json."""
    if len(source.skipped):
        RunFolder.write_json(folder / "skipped.json", source.skipped.reasons)
        print(f"{source.skipped.summary()}. All: {folder / 'skipped.json'}", file=sys.stderr)


def write_weights(run: RunFolder, model: ResNetV2) -> None:
    """The weights first: whatever fails later, the training is not lost."""
    save_npz(model, run.npz)
    with replacing(run.keras) as partial:
        model.save(partial)


def _write_modules(options: FinetuneOptions, task: Task, run: RunFolder, model: ResNetV2) -> None:
    if options.export:
        for kind, folder in (("fine-tunable", run.module), ("serving", run.serving)):
            export_module(
                model,
                folder,
                kind=kind,  # type: ignore[arg-type]
                labels=task.source.class_names,
                image_size=task.rule.crop,
            )


def finetune(options: FinetuneOptions) -> Evaluation:
    """Fine-tunes a model with the BiT-HyperRule and leaves a complete run folder.

    The folder (`options.output`) holds config.json, metrics.jsonl, checkpoints/, tensorboard/,
    model.npz, model.keras, evaluation.json, confusion.png, learning_curve.png, module/ (for
    `hub.KerasLayer`) and serving/1/ (for TensorFlow Serving), and skipped.json if files were.

    Raises:
        ValueError: for data, model or settings that do not fit together.
        OSError: for missing data or weights, or a full disk.
        NonFiniteLossError: when the loss becomes NaN; the last good checkpoint is kept.

    Example:
        >>> options = FinetuneOptions(data="folder:photos", output="runs/photos", batch_size=64)
        >>> finetune(options).top1  # doctest: +SKIP
        0.93
    """
    strategy = prepare_devices(options)
    task = open_task(options)
    run = RunFolder(options.output)
    settings = {"options": options.settings(), **task.describe()}
    with run.claim(settings, resume=options.resume, overwrite=options.overwrite):
        return _finetune(options, task, run, strategy)


def _finetune(
    options: FinetuneOptions, task: Task, run: RunFolder, strategy: tf.distribute.Strategy
) -> Evaluation:
    """Fills a run folder that is ours."""
    print(task.rule.derivation, file=sys.stderr)
    steps = task.rule.steps
    every = -(-steps // 5) if options.evaluate_every is None else options.evaluate_every
    model, evaluation = train_task(
        options,
        task,
        run,
        strategy,
        checkpoint_every=options.checkpoint_every or max(LEAST_INTERVAL, -(-steps // 20)),
        evaluate_every=every,
    )
    write_weights(run, model)
    write_evaluation(run.path, evaluation, options.data, task.eval_split, task.source)
    plot_learning_curve(run, f"{options.model} on {options.data}")
    _write_modules(options, task, run, model)
    report_skipped(task.source, run.path)
    return evaluation
