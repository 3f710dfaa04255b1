"""What fewer bits cost: the best classes of BiT-XS in bfloat16 and int8, on images it never saw."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.results import Table, Target

MODEL, SIDE = "BiT-XS-R26x0.5", 64  # pixels, as it was trained
UPSTREAM = "tfds:clipart"
DOWNSTREAM = "embedded:openclipart-mini"
BATCH = 64
F32, BF16, INT8 = "float32", "bfloat16", "int8"

Answer = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Subject:
    """A trained BiT-XS, and images that it never saw.

    Attributes:
        about: what it was trained on, for a reader.
        model: the same as `convert --model`: a preset or a run folder.
        weights: an npz file.
        classes: outputs.
        multi_label: whether an image has several.
        data: where its images are.
        split: of the held-out ones.
    """

    about: str
    model: str
    weights: str
    classes: int
    multi_label: bool
    data: str
    split: str


def _is_prepared(name: str) -> bool:
    """Whether a TFDS data set is on this machine, without asking a network for it."""
    home = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return (Path(home).expanduser() / name).is_dir()


def subject(folder: Path, steps: int) -> Subject:
    """BiT-XS with the head it was pre-trained with, where its data is prepared; else fine-tuned.

    Args:
        folder: where a fine-tuned one is written.
        steps: of fine-tuning.
    """
    from bit_keras.presets import get_preset
    from bit_keras.pretrained import find_weights

    preset = get_preset(MODEL)
    if _is_prepared(UPSTREAM.partition(":")[2]):
        weights = str(find_weights(str(preset.filename)))
        about = f"{MODEL} as it was pre-trained, on {UPSTREAM}"
        return Subject(about, MODEL, weights, preset.num_classes, True, UPSTREAM, "validation")
    from bit_keras.options import FinetuneOptions
    from bit_keras.sources import load_source
    from bit_keras.transfer import finetune

    run = folder / "finetuned"
    finetune(
        FinetuneOptions(
            data=DOWNSTREAM,
            output=str(run),
            model=MODEL,
            steps=steps,
            batch_size=32,
            resize=80,
            crop=SIDE,
            learning_rate=0.003,
            evaluate_every=0,
            export=False,
            progress=False,
        )
    )
    about = f"{MODEL}, fine-tuned for {steps} steps on {DOWNSTREAM}"
    classes = load_source(DOWNSTREAM).num_classes
    return Subject(about, str(run), str(run / "model.npz"), classes, False, DOWNSTREAM, "test")


def held_out(source: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images float32 [N, 64, 64, 3] in [0, 1], and float32 [N, K], 1 for the classes they have."""
    from bit_keras.data import eval_batches

    images, labels = [], []
    for batch in eval_batches(source, split, batch_size=BATCH, size=SIDE):
        counts = batch["weight"].numpy() > 0
        images.append((batch["image"].numpy()[counts] + 1) / 2)
        labels.append(batch["label"].numpy()[counts])
    label = np.concatenate(labels)
    hot = label if source.multi_label else np.eye(source.num_classes, dtype=np.float32)[label]
    return np.concatenate(images), hot


def answers_of(subject: Subject, folder: Path) -> dict[str, Answer]:
    """What answers images in [0, 1] in each precision: two serving modules, and LiteRT."""
    import tensorflow as tf

    from bit_keras import ResNetV2, export_module, load_npz
    from bit_keras.convert import convert
    from bit_keras.convert_options import ConvertOptions
    from bit_keras.presets import get_preset
    from bit_keras.pretrain import POLICIES
    from bit_keras.runtimes import RUNTIMES, Conversion

    architecture = get_preset(MODEL).architecture
    found: dict[str, Answer] = {}
    for precision in (F32, BF16):
        model = ResNetV2(
            architecture.depth, architecture.width, subject.classes, dtype=POLICIES[precision]
        )
        load_npz(model, subject.weights)
        path = export_module(model, folder / f"accuracy-{precision}", kind="serving")
        found[precision] = _module_answer(tf.saved_model.load(str(path)))
    options = ConvertOptions(
        subject.model,
        "tflite",
        str(folder / "accuracy.tflite"),
        "int8",
        calibration=subject.data,
        image_size=SIDE,
        num_classes=subject.classes,
        multi_label=subject.multi_label,
    )
    conversion = Conversion(model, SIDE, subject.multi_label)
    litert = RUNTIMES["tflite"]().load(convert(options).path, conversion)
    found[INT8] = lambda images: litert(images)["logits"]
    return found


def _module_answer(module: Any) -> Answer:
    import tensorflow as tf

    signature = module.signatures["serving_default"]

    # A default argument holds the module, whose constants the signature does not.
    def answer(images: np.ndarray, _module: Any = module) -> np.ndarray:
        parts = [images[i : i + BATCH] for i in range(0, len(images), BATCH)]
        return np.concatenate([signature(tf.constant(part))["logits"].numpy() for part in parts])

    return answer


def top1(logits: np.ndarray, hot: np.ndarray) -> float:
    """Share of the images whose best class is one of theirs.

    Example:
        >>> top1(np.array([[2.0, 1.0], [0.0, 1.0]]), np.array([[1, 0], [1, 0]]))
        0.5
    """
    return float(np.take_along_axis(hot, logits.argmax(1)[:, None], 1).mean())


def agreement(a: np.ndarray, b: np.ndarray) -> float:
    """Share of the images with the same best class.

    Example:
        >>> agreement(np.array([[2.0, 1.0], [0.0, 1.0]]), np.array([[3.0, 1.0], [1.0, 0.0]]))
        0.5
    """
    return float((a.argmax(1) == b.argmax(1)).mean())


@dataclass(frozen=True)
class Accuracy:
    """Of one model in three precisions.

    Attributes:
        about: the model.
        held_out: how many images it never saw.
        images: how many real ones the agreement is of, those included.
        top1: by precision, of the held-out ones.
        agreement: by precision, with float32.
    """

    about: str
    held_out: int
    images: int
    top1: dict[str, float]
    agreement: dict[str, float]

    def table(self) -> Table:
        """A row for each precision."""
        rows = [
            (name, f"{100 * self.top1[name]:.2f}", f"{100 * self.agreement[name]:.2f}")
            for name in self.top1
        ]
        title = f"Best classes of {self.about}, {SIDE}²"
        header = (
            "",
            f"top-1 of {self.held_out} held-out images, %",
            f"as in float32, of {self.images} real images, %",
        )
        return Table(title, header, rows, "lrr")

    def targets(self) -> list[Target]:
        """The accuracy of targets 2 and 3."""
        same, points = self.agreement[BF16], 100 * (self.top1[INT8] - self.top1[F32])
        return [
            Target(
                "2",
                "bfloat16: the same best class as in float32 for ≥ 99 % of real images",
                f"{100 * same:.2f} % of {self.images}",
                same >= 0.99,
            ),
            Target(
                "3",
                "int8: top-1 of held-out images within 1 point of float32",
                f"{points:+.2f} points",
                points >= -1,
            ),
        ]


def compared(folder: Path, quick: bool) -> Accuracy:
    """Lets BiT-XS answer real images in every precision.

    Args:
        folder: for what has to be written.
        quick: fewer steps of fine-tuning, where the data it was pre-trained on is not there.
    """
    from bit_keras.convert import real_images
    from bit_keras.sources import load_source

    chosen = subject(folder, steps=20 if quick else 500)
    print(f"inference: accuracy of {chosen.about}", file=sys.stderr)
    images, hot = held_out(load_source(chosen.data), chosen.split)
    more = load_source(DOWNSTREAM)
    others = [
        real_images(more, split, SIDE, more.splits[split])
        for split in more.splits
        if (chosen.data, chosen.split) != (DOWNSTREAM, split)
    ]
    everything = np.concatenate([images, *others])
    logits = {name: answer(everything) for name, answer in answers_of(chosen, folder).items()}
    return Accuracy(
        chosen.about,
        len(images),
        len(everything),
        {name: top1(found[: len(images)], hot) for name, found in logits.items()},
        {name: agreement(found, logits[F32]) for name, found in logits.items()},
    )
