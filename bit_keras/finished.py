"""Using a finished run: evaluating it again, classifying files with it, exporting it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from bit_keras.evaluate import TOP, Evaluation, MultiLabelEvaluation, Predictor
from bit_keras.export import export_module
from bit_keras.images import ImageError, SkippedFiles, decode_image
from bit_keras.options import EvaluateOptions, ExportOptions, PredictOptions
from bit_keras.preprocess import eval_view
from bit_keras.presets import PRESETS
from bit_keras.resnet import ResNetV2
from bit_keras.runs import RunFolder, RunFolderError
from bit_keras.sources import load_source
from bit_keras.text import table
from bit_keras.transfer import evaluate_on, report_skipped, write_evaluation

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff")


@dataclass(frozen=True)
class FinishedRun:
    """A trained model with what is needed to use it.

    Attributes:
        folder: the run folder.
        model: images in [-1, 1] → logits.
        class_names: names of the outputs.
        image_size: side to which images are resized, pixels.
        multi_label: whether classes are independent of each other, as after a multi-label
            pre-training: probabilities by sigmoid, not softmax.
    """

    folder: RunFolder
    model: ResNetV2
    class_names: list[str]
    image_size: int
    multi_label: bool = False


def open_run(path: str) -> FinishedRun:
    """Opens the run folder of a finished `bit-keras pretrain` or `finetune`.

    Raises:
        RunFolderError: when it is none, or its training has not come to its end.
    """
    folder = RunFolder(path)
    config = folder.read_config()
    if not folder.keras.is_file():
        raise RunFolderError(
            f"{path} holds no model.keras: its training has not finished (--resume goes on), "
            "or it is a draw of `bit-keras fewshot`, which keeps no model."
        )
    model = keras.saving.load_model(folder.keras, compile=False)
    size = config["rule"]["crop"] if "rule" in config else config["image_size"]
    return FinishedRun(folder, model, config["class_names"], size, config.get("multi_label", False))


def evaluate_run(options: EvaluateOptions) -> Evaluation | MultiLabelEvaluation:
    """Evaluates a run on its own or another data set; writes evaluation.json and confusion.png.

    Of multi-label data there is no confusion to draw.

    Raises:
        ValueError: when the data has other classes than the model, or no such split.
    """
    run = open_run(options.run)
    config = run.folder.read_config()
    data = options.data or config["options"]["data"]
    source = load_source(data, seed=config["options"]["seed"], strict=options.strict)
    if list(source.class_names) != run.class_names:
        raise ValueError(
            f"{data} has other classes than the model. Model: {', '.join(run.class_names)}. "
            f"Data: {', '.join(source.class_names)}."
        )
    split = options.split or config["eval_split"]
    if split not in source.splits:
        raise ValueError(f"{data} has no split {split!r}; it has {', '.join(source.splits)}.")
    evaluation = evaluate_on(
        Predictor(run.model),
        source,
        split,
        run.image_size,
        batch_size=options.batch_size,
        progress=options.progress,
    )
    own = not options.data and split == config["eval_split"]
    folder = run.folder.path if own else run.folder.path / f"evaluation-{split}"
    folder = Path(options.output) if options.output else folder
    write_evaluation(folder, evaluation, data, split, source)
    report_skipped(source, folder)
    return evaluation


def evaluation_text(evaluation: Evaluation | MultiLabelEvaluation) -> str:
    """Top-1, top-5 and the accuracy of each class as a table; of several labels the means only."""
    if isinstance(evaluation, MultiLabelEvaluation):
        shares = evaluation.as_json()
        count = shares.pop("examples")
        told = [f"{name.replace('_', ' ')} {100 * share:.1f} %" for name, share in shares.items()]
        return f"{', '.join(told)} of {count:,} images with several labels"
    counts = evaluation.confusion.sum(1)
    rows = [
        (name, count, "–" if share is None else f"{100 * share:.1f}")
        for (name, share), count in zip(evaluation.per_class.items(), counts, strict=True)
    ]
    rows.append(("all", evaluation.examples, f"{100 * evaluation.top1:.1f}"))
    text = table(("class", "images", "top-1 %"), rows, "lrr")
    if len(rows) - 1 > TOP:
        text += f"\ntop-{TOP}: {100 * evaluation.top5:.1f} %"
    return text


def image_files(paths: Iterable[str]) -> list[Path]:
    """Files as they are, folders as all image files below them, sorted.

    Raises:
        FileNotFoundError: for a path that is not there, or when there is no image at all.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        elif path.is_file():
            found.append(path)
        else:
            raise FileNotFoundError(f"There is no file or folder {path}.")
    if not found:
        raise FileNotFoundError(
            f"No images to classify in: {', '.join(paths) or 'no path given'}. "
            f"Name image files, or folders with {', '.join(IMAGE_SUFFIXES)} files."
        )
    return found


def _decoded(
    files: Sequence[Path], skipped: SkippedFiles, strict: bool
) -> Iterator[tuple[Path, np.ndarray]]:
    for file in files:
        try:
            yield file, decode_image(file.read_bytes())
        except (ImageError, OSError) as error:
            if strict:
                raise ImageError(f"{file}: {error}") from error
            skipped.add(str(file), str(error))


def classify(
    run: FinishedRun, files: Sequence[Path], *, top: int = 3, batch_size: int = 32,
    skipped: SkippedFiles | None = None, strict: bool = False,
) -> Iterator[tuple[Path, list[tuple[str, float]]]]:  # fmt: skip
    """The best classes of image files, with the preprocessing of the evaluation.

    Args:
        run: from `open_run`.
        files: encoded images.
        top: classes to give for each.
        batch_size: images at a time.
        skipped: takes the names of files that are no images.
        strict: raise for those instead.

    Yields:
        Path and [(class, probability), …] by falling probability.
    """
    skipped = SkippedFiles() if skipped is None else skipped
    normalised = tf.nn.sigmoid if run.multi_label else tf.nn.softmax
    predict = tf.function(lambda images: normalised(run.model(images, training=False)))

    def answers(paths: list[Path], views: list[tf.Tensor]) -> Iterator:
        for path, probabilities in zip(paths, predict(tf.stack(views)).numpy(), strict=True):
            best = np.argsort(-probabilities)[:top]
            yield path, [(run.class_names[i], float(probabilities[i])) for i in best]

    paths: list[Path] = []
    views: list[tf.Tensor] = []
    for path, image in _decoded(files, skipped, strict):
        paths.append(path)
        views.append(eval_view(image, run.image_size))
        if len(paths) == batch_size:
            yield from answers(paths, views)
            paths, views = [], []
    if paths:
        yield from answers(paths, views)


def predict_files(options: PredictOptions, paths: Sequence[str]) -> int:
    """Prints the best classes of image files; returns how many images were classified."""
    files = image_files(paths)
    run = open_run(options.run)
    skipped = SkippedFiles()
    rows = []
    count = 0
    for path, best in classify(
        run, files, top=options.top, batch_size=options.batch_size, skipped=skipped,
        strict=options.strict,
    ):  # fmt: skip
        count += 1
        if options.format == "jsonl":
            classes = [{"class": name, "probability": round(p, 6)} for name, p in best]
            print(
                json.dumps({"file": str(path), "predictions": classes}, ensure_ascii=False),
                flush=True,
            )
        else:
            rows.append((path, *(f"{name} {100 * p:.1f} %" for name, p in best)))
    if rows:
        print(table(("file", *(f"#{i + 1}" for i in range(len(rows[0]) - 1))), rows))
    if len(skipped):
        print(skipped.summary(), file=sys.stderr)
    if not count:
        raise ImageError("None of the files is a readable image.")
    return count


@dataclass(frozen=True)
class Trained:
    """A model of a run or of a preset.

    Attributes:
        model: images in [-1, 1] → logits or features.
        class_names: names of its outputs, where known.
        image_size: side of the images that it was trained on or is asked for, pixels.
        multi_label: whether probabilities are by sigmoid.
        run: where it comes from, if from a run.
    """

    model: ResNetV2
    class_names: list[str] | None
    image_size: int
    multi_label: bool
    run: FinishedRun | None = None


def open_trained(
    name: str, *, weights: str, num_classes: int | None, image_size: int, multi_label: bool
) -> Trained:
    """Opens a run folder, or makes the preset of that name.

    Args:
        name: of either.
        weights: for a preset: "pretrained", the path of an npz file, or "none".
        num_classes: for a preset.
        image_size: for a preset.
        multi_label: for a preset.

    Raises:
        ValueError: for a name that is neither.
    """
    if Path(name).is_dir():
        run = open_run(name)
        return Trained(run.model, run.class_names, run.image_size, run.multi_label, run)
    if name not in PRESETS:
        raise ValueError(
            f"{name!r} is neither a run folder nor a preset. `bit-keras models` lists the presets."
        )
    model = ResNetV2.from_preset(name, num_classes, None if weights == "none" else weights)
    return Trained(model, None, image_size, multi_label)


def export(options: ExportOptions) -> Path:
    """Exports a finished run, or a preset, as a module.

    Raises:
        ValueError: for an unknown preset, or labels that do not fit the model.
        OSError: for a missing file, or a folder that cannot be written.
    """
    labels = Path(options.labels).read_text("utf-8").splitlines() if options.labels else None
    trained = open_trained(
        options.model,
        weights=options.weights,
        num_classes=options.num_classes,
        image_size=options.image_size,
        multi_label=options.multi_label,
    )
    return export_module(
        trained.model,
        options.output,
        kind=options.kind,
        labels=labels or trained.class_names,
        image_size=trained.image_size,
        multi_label=trained.multi_label,
    )
