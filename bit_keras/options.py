"""Options of the commands as dataclasses: the same for Python and for the command line.

Every field becomes a flag of the command with its default and help text. No TensorFlow here, so
that `--help` answers at once.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal


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
        "The data set: folder:PATH (class sub-folders), npz:PATH, tfds:NAME[/config] or "
        "embedded:openclipart-mini."
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
        problems = [
            f"{name} must be at least {least}, received {value}"
            for name, least in (
                ("batch_size", 1),
                ("steps", 1),
                ("resize", 1),
                ("crop", 1),
                ("logical_cpus", 1),
                ("steps_per_loop", 1),
                ("learning_rate", 0),
                ("mixup_alpha", 0),
            )
            if (value := getattr(self, name)) is not None and value < least
        ]
        if self.resume and self.overwrite:
            problems.append("resume and overwrite exclude each other")
        if problems:
            raise ValueError("; ".join(problems))


# Fields that say how a run is carried out, not what comes out: a resumed run may change them.
_NOT_OF_THE_RESULT = ("output", "progress", "resume", "overwrite", "steps_per_loop", "strict")


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

    def settings(self) -> dict[str, Any]:
        """The options that determine the result, JSON-ready; a resumed run must repeat them."""
        fields = dataclasses.asdict(self)
        return {name: value for name, value in fields.items() if name not in _NOT_OF_THE_RESULT}


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
    output: str = option("", "Folder for evaluation.json and confusion.png; default: the run.")
    batch_size: int = option(32, "Images at a time.")
    strict: bool = option(False, "Stop at the first unreadable image instead of skipping it.")
    progress: bool = option(True, "Show a progress bar.")


@dataclass(frozen=True)
class PredictOptions:
    """Classifies image files, or all images in folders, with a fine-tuned model."""

    run: str = required("The run folder of a `bit-keras finetune`.")
    top: int = option(3, "Classes to show for each image.")
    format: Literal["table", "jsonl"] = option("table", "A table, or one JSON object on a line.")
    batch_size: int = option(32, "Images at a time.")
    strict: bool = option(False, "Stop at the first unreadable image instead of skipping it.")


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


@dataclass(frozen=True)
class QuickstartOptions:
    """The whole way on embedded images: fine-tune, evaluate, export, load through hub.KerasLayer.

    It takes a few minutes on two CPU cores and needs no network.
    """

    output: str = option("runs/quickstart", "The run folder to make; an old one is replaced.")
    steps: int = option(500, "Number of updates.")
    seed: int = option(0, "Seed of the run.")
    progress: bool = option(True, "Show progress bars.")


@dataclass(frozen=True)
class ModelsOptions:
    """Lists the models of the zoo: size, cost, upstream data, weights."""
