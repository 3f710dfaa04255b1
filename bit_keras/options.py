"""Options of the commands as dataclasses: the same for Python and for the command line.

Every field becomes a flag of the command with its default and help text. No TensorFlow here, so
that `--help` answers at once.
"""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass
from typing import Any, Literal

from bit_keras.presets import get_preset


def option(default: Any, text: str) -> Any:
    """A field with its default value and help text."""
    return dataclasses.field(default=default, metadata={"help": text})


def required(text: str) -> Any:
    """A field that has to be given."""
    return dataclasses.field(default="", metadata={"help": text, "required": True})


@dataclass(frozen=True)
class TransferOptions:
    """What a transfer trains, on what, and how; shared by `finetune` and `fewshot`."""

    data: str = required(
        "The data set: folder:PATH (class sub-folders), npz:PATH, tfds:NAME[/config], "
        "tfrecord:GLOB or embedded:openclipart-mini."
    )
    output: str = required("The run folder to make.")
    model: str = option("BiT-M-R50x1", "A preset; `bit-keras models` lists them.")
    weights: str = option("pretrained", "'pretrained', the path of an npz file, or 'none'.")
    train_split: str = option("train", "The split to train on.")
    eval_split: str = option("", "The split to evaluate on; by default test, else val.")
    variant: Literal["paper", "code"] = option("paper", "The HyperRule of the paper or the code.")
    batch_size: int | None = option(
        None, "Examples of one update; learning rate and steps are rescaled. Default: 512."
    )
    steps: int | None = option(None, "Number of updates; default: the rule's.")
    learning_rate: float | None = option(
        None, "Learning rate at the batch size in use; default: the rule's."
    )
    resize: int | None = option(None, "Side to which training images are resized, pixels.")
    crop: int | None = option(None, "Side of the training crop and of test images, pixels.")
    mixup_alpha: float | None = option(None, "MixUp's α, 0 for none; default: the rule's.")
    flip: bool = option(True, "Mirror training images at random; --noflip where sides matter.")
    seed: int = option(0, "Seed of the splits, the order of the data and the augmentation.")
    strict: bool = option(False, "Stop at the first unreadable image instead of skipping it.")
    strategy: Literal["auto", "one_device", "mirrored"] = option("auto", "How to use the devices.")
    logical_cpus: int | None = option(None, "Split the CPU, to try --strategy=mirrored.")
    precision: Literal["float32", "mixed_bfloat16"] = option("float32", "Keras dtype policy.")
    steps_per_loop: int = option(10, "Updates in one call of the compiled loop.")
    progress: bool = option(True, "Show progress bars.")
    resume: bool = option(False, "Go on with the run in --output where it stopped.")
    overwrite: bool = option(False, "Delete the run in --output first.")

    def __post_init__(self) -> None:
        check_numbers(self, 1, "batch_size", "steps", "resize", "crop", "logical_cpus")
        check_numbers(self, 1, "steps_per_loop")
        check_numbers(self, 0, "learning_rate", "mixup_alpha", "seed")
        if self.resume and self.overwrite:
            raise ValueError("resume and overwrite exclude each other")
        get_preset(self.model)

    def settings(self) -> dict[str, Any]:
        """The options that determine the result, JSON-ready; a resumed run must repeat them."""
        fields = dataclasses.asdict(self)
        settings = {key: value for key, value in fields.items() if key not in _NOT_OF_THE_RESULT}
        return {**settings, "data": absolute_source(self.data)}


def absolute_source(spec: str) -> str:
    """A data set's name with its path in full, so that it means the same from any folder."""
    kind, _, path = spec.partition(":")
    if kind in ("folder", "npz") or (kind == "tfrecord" and "://" not in path):
        return f"{kind}:{os.path.abspath(os.path.expanduser(path))}"
    return spec


def check_numbers(options: Any, least: float, *names: str) -> None:
    """Refuses options that are not finite or below `least`; None stands for a default."""
    problems = [
        f"{name} must be a number from {least} on, received {value}"
        for name in names
        if (value := getattr(options, name)) is not None
        and not (math.isfinite(value) and value >= least)
    ]
    if problems:
        raise ValueError("; ".join(problems))


# Fields that say how a run is carried out, not what comes out: a resumed run may change them.
_NOT_OF_THE_RESULT = {
    "output", "progress", "resume", "overwrite", "steps_per_loop", "strict", "export",
    "checkpoint_every", "evaluate_every", "shots", "seeds",
}  # fmt: skip


@dataclass(frozen=True)
class FinetuneOptions(TransferOptions):
    """Fine-tunes a model with the BiT-HyperRule.

    Leaves a run folder: settings, checkpoints, metrics, weights as npz and .keras, evaluation,
    learning curve, and the model as TF-Hub module and for serving.
    """

    checkpoint_every: int | None = option(
        None, "Updates between checkpoints; default: 20 a run, at least 20 apart."
    )
    evaluate_every: int | None = option(
        None, "Updates between evaluations, 0 for only the last; default: 5 a run."
    )
    export: bool = option(True, "Write the TF-Hub module and the serving module at the end.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, 1, "checkpoint_every")
        check_numbers(self, 0, "evaluate_every")


@dataclass(frozen=True)
class FewshotOptions(TransferOptions):
    """Fine-tunes on a few examples of each class, over several draws of them.

    Prints accuracy for each number of shots: median and spread over the seeds, as in the paper's
    Figure 3 (which has the median of five).
    """

    shots: tuple[int, ...] = option((1, 5, 10), "Numbers of examples of each class.")
    seeds: tuple[int, ...] = option((0, 1, 2, 3, 4), "Seeds of the draws.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.shots or not self.seeds or min(self.shots) < 1:
            raise ValueError(
                f"shots and seeds need one number each at least, shots from 1 on. Received: "
                f"shots={self.shots}, seeds={self.seeds}"
            )


@dataclass(frozen=True)
class EvaluateOptions:
    """Measures a fine-tuned model: top-1, top-5, every class, and the confusion matrix."""

    run: str = required("The run folder of a `bit-keras finetune`.")
    data: str = option("", "Another data set with the same classes; default: the run's.")
    split: str = option("", "The split; default: the one the run was evaluated on.")
    output: str = option(
        "", "Folder for evaluation.json and confusion.png; default: the run, or evaluation-SPLIT "
        "in it for other data than the run's own test."
    )  # fmt: skip
    batch_size: int = option(32, "Images at a time.")
    strict: bool = option(False, "Stop at the first unreadable image instead of skipping it.")
    progress: bool = option(True, "Show a progress bar.")

    def __post_init__(self) -> None:
        check_numbers(self, 1, "batch_size")


@dataclass(frozen=True)
class PredictOptions:
    """Classifies image files, or all images in folders, with a fine-tuned model."""

    run: str = required("The run folder of a `bit-keras finetune`.")
    top: int = option(3, "Classes to show for each image.")
    format: Literal["table", "jsonl"] = option("table", "A table, or one JSON object on a line.")
    batch_size: int = option(32, "Images at a time.")
    strict: bool = option(False, "Stop at the first unreadable image instead of skipping it.")

    def __post_init__(self) -> None:
        check_numbers(self, 1, "batch_size", "top")


@dataclass(frozen=True)
class ExportOptions:
    """Writes a fine-tuned model, or a preset, as a TF-Hub or a serving module."""

    model: str = required("A run folder, or a preset such as BiT-M-R50x1.")
    output: str = required("The module folder to make.")
    kind: Literal["fine-tunable", "serving"] = option("fine-tunable", "What the module is for.")
    weights: str = option("pretrained", "For a preset: 'pretrained' or the path of an npz file.")
    num_classes: int | None = option(None, "For a preset: outputs; default: features only.")
    image_size: int = option(224, "For a preset: the side serving_bytes resizes to, pixels.")
    labels: str = option("", "A text file of class names, one a line; default: the run's classes.")
    multi_label: bool = option(False, "Probabilities by sigmoid, as for BiT-M's 21,843 classes.")

    def __post_init__(self) -> None:
        check_numbers(self, 1, "num_classes", "image_size")


@dataclass(frozen=True)
class DataOptions:
    """Writes a data set to record shards for fast training, or checks such shards.

    The shards open as --data=tfrecord:DIR. A run that was interrupted goes on when the same command
    is given again.
    """

    output: str = required("The folder of the shards.")
    source: str = option("", "The data set to write, as --data of `finetune`; none to check only.")
    shards: int | None = option(
        None, "Files for each split; default: one for every 1,000 images, at most 1,024."
    )
    splits: str = option("", "The splits to write, with commas between; default: all.")
    seed: int = option(0, "Seed of the data's split and of the distribution to shards.")
    workers: int | None = option(None, "Threads that read and decode; default: all processors.")
    quality: int | None = option(
        None, "JPEG quality for images that are not JPEG or PNG files; default: stored as PNG."
    )
    verify: bool = option(False, "Check the SHA-256 of every shard.")
    strict: bool = option(False, "Stop at the first unreadable image instead of skipping it.")
    overwrite: bool = option(False, "Delete the shards in --output first.")
    progress: bool = option(True, "Show progress bars.")

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be at least 1, received {value}"
            for name in ("shards", "workers", "quality")
            if (value := getattr(self, name)) is not None and value < 1
        ]
        if not (self.source or self.verify):
            problems.append("pass --source=SPEC to write a data set, or --verify to check --output")
        if problems:
            raise ValueError("; ".join(problems))


@dataclass(frozen=True)
class QuickstartOptions:
    """The whole way on embedded images: fine-tune, evaluate, export, load through hub.KerasLayer.

    Beside it the same network learns from scratch, to show what the pre-training is worth.
    It takes a few minutes on two CPU cores and needs no network.
    """

    output: str = option("runs/quickstart", "The run folder to make; an old one is replaced.")
    steps: int = option(300, "Number of updates, of each of two trainings.")
    seed: int = option(0, "Seed of the run.")
    progress: bool = option(True, "Show progress bars.")


@dataclass(frozen=True)
class ModelsOptions:
    """Lists the models of the zoo: size, cost, upstream data, weights."""


# Options of `bit-keras data dedup`.


@dataclass(frozen=True)
class DedupOptions:
    """Finds near-duplicates between an upstream and a downstream set.

    Leaves a folder with a contact sheet of the pairs, a list of the upstream examples to leave
    out, and a manifest.
    """

    upstream: str = required("The data set that a model is pre-trained on.")
    downstream: str = required("The data set that it is judged on.")
    output: str = required("The folder for pairs.png, exclude.txt and manifest.json.")
    distance: int = option(8, "Bits of the 64-bit hash in which near-duplicates may differ.")
    strict: bool = option(False, "Stop at the first unreadable image instead of skipping it.")
    progress: bool = option(True, "Show progress bars.")

    def __post_init__(self) -> None:
        if not 0 <= self.distance < 64:
            raise ValueError(f"distance must be from 0 to 63, received {self.distance}")
