"""Options of `bit-keras pretrain`, the same for Python and for the command line."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from bit_keras.options import absolute_source, check_numbers, option, required
from bit_keras.presets import get_preset
from bit_keras.upstream import PretrainRecipe, pretrain_recipe

# Fields of the recipe that a flag of the same name overrides.
_OVERRIDES = (
    "epochs", "decay_epochs", "batch_size", "warmup_steps", "base_learning_rate", "momentum",
    "weight_decay", "image_size",
)  # fmt: skip
# Fields that say how a run is carried out, not what comes out: a resumed run may change them.
_NOT_OF_THE_RESULT = {
    "output", "progress", "resume", "overwrite", "steps_per_loop", "strict", "checkpoint_every",
    "evaluate_every", "strategy", "tpu", "logical_cpus", "microbatches", "remat", "data_service",
}  # fmt: skip


@dataclass(frozen=True)
class PretrainOptions:
    """Pre-trains a model on a large labelled set with the paper's recipe.

    The recipe is that of the model's name: BiT-S, BiT-M, BiT-L or BiT-XS. Its epochs become steps
    for the data's size. Any of its fields has a flag.
    """

    data: str = required(
        "The upstream data set: tfrecord:GLOB, tfds:NAME[/config], folder:PATH or npz:PATH."
    )
    output: str = required("The run folder to make; all workers share it.")
    model: str = option("BiT-M-R50x1", "A preset; its name says recipe and architecture.")
    epochs: float | None = option(None, "Passes over the data; default: the recipe's.")
    decay_epochs: tuple[float, ...] = option(
        (), "Epochs at which the learning rate drops tenfold; default: the recipe's, in proportion."
    )
    batch_size: int | None = option(
        None, "Examples of one update over all replicas; learning rate and steps follow."
    )
    warmup_steps: int | None = option(None, "Updates of linear warm-up; default: the recipe's.")
    base_learning_rate: float | None = option(
        None, "Learning rate of a batch of 256; it grows with the batch. Default: 0.03."
    )
    momentum: float | None = option(None, "Of SGD; default: the recipe's.")
    weight_decay: float | None = option(None, "Of kernels; default: the recipe's.")
    image_size: int | None = option(None, "Side of the training images; default: the recipe's.")
    loss: Literal["auto", "softmax", "sigmoid"] = option(
        "auto", "auto: sigmoid where images have several labels or the recipe says so."
    )
    flip: bool = option(True, "Mirror training images at random; --noflip where sides matter.")
    exclude: str = option("", "An exclusion list, as `bit-keras data dedup` writes it.")
    train_split: str = option("train", "The split to train on.")
    eval_split: str = option("", "The split to evaluate on; by default validation, val or test.")
    norm: Literal["gn", "bn", "sync_bn"] = option(
        "gn", "Group norm, batch norm, or batch norm with statistics over all replicas."
    )
    weight_standardization: bool = option(True, "Standardise the convolutions' kernels.")
    precision: Literal["float32", "bfloat16", "float16"] = option(
        "float32", "To compute in; weights stay float32. float16 scales the loss."
    )
    microbatches: int = option(1, "Parts of a replica's share, one after the other: less memory.")
    remat: bool = option(False, "Compute activations again in the backward pass: less memory.")
    strategy: Literal["auto", "one_device", "mirrored", "multi_worker", "tpu"] = option(
        "auto", "How to use the devices; multi_worker reads TF_CONFIG."
    )
    tpu: str = option("", "'local' on a TPU VM, else the TPU's name or address.")
    logical_cpus: int | None = option(None, "Split the CPU, to try --strategy=mirrored.")
    steps_per_loop: int = option(50, "Updates in one call of the compiled loop.")
    data_service: str = option("", "Address of a tf.data service that reads and decodes.")
    seed: int = option(0, "Seed of the weights, the order of the data and the augmentation.")
    strict: bool = option(False, "Stop at the first unreadable image instead of skipping it.")
    checkpoint_every: int | None = option(
        None, "Updates between checkpoints; default: 50 a run, 100 to 2,000 apart."
    )
    evaluate_every: int | None = option(
        None, "Updates between evaluations, 0 for only the last; default: 30 a run."
    )
    progress: bool = option(True, "Show progress bars.")
    resume: bool = option(False, "Go on with the run in --output where it stopped.")
    overwrite: bool = option(False, "Delete the run in --output first.")

    def __post_init__(self) -> None:
        check_numbers(self, 1, "batch_size", "image_size", "logical_cpus", "checkpoint_every")
        check_numbers(self, 1, "microbatches", "steps_per_loop")
        check_numbers(self, 0, "epochs", "warmup_steps", "base_learning_rate", "momentum", "seed")
        check_numbers(self, 0, "weight_decay", "evaluate_every")
        if self.resume and self.overwrite:
            raise ValueError("resume and overwrite exclude each other")
        if self.norm != "gn" and self.remat:
            raise ValueError(
                "remat would update batch norm's moving averages twice; take norm gn, or no remat"
            )
        if self.norm == "sync_bn" and self.microbatches > 1:
            raise ValueError(
                "the statistics of sync_bn are those of whole batches; take microbatches 1"
            )
        get_preset(self.model)

    @property
    def family(self) -> str:
        """Name of the recipe: BiT-S, BiT-M, BiT-L or BiT-XS."""
        return "-".join(self.model.split("-")[:2])

    def recipe(self, num_examples: int, num_classes: int, multi_label: bool) -> PretrainRecipe:
        """The recipe for the data at hand, with what the options set by hand.

        Raises:
            ValueError: for values that make no schedule.
        """
        paper = pretrain_recipe(self.family)
        changes = {
            name: value for name in _OVERRIDES if (value := getattr(self, name)) not in (None, ())
        }
        if self.epochs and not self.decay_epochs:
            stretch = self.epochs / paper.epochs
            changes["decay_epochs"] = tuple(round(e * stretch, 3) for e in paper.decay_epochs)
        sigmoid = multi_label if self.loss == "auto" else self.loss == "sigmoid"
        return paper.override(
            data=self.data,
            num_examples=num_examples,
            num_classes=num_classes,
            multi_label=sigmoid,
            **changes,
        )

    def recipe_of_paper(self, resolved: PretrainRecipe) -> PretrainRecipe:
        """The recipe as the paper has it, for the same data: what a report compares with."""
        return pretrain_recipe(self.family).override(
            data=resolved.data,
            num_examples=resolved.num_examples,
            num_classes=resolved.num_classes,
        )

    def settings(self) -> dict[str, Any]:
        """The options that determine the result, JSON-ready; a resumed run must repeat them."""
        fields = dataclasses.asdict(self)
        settings = {key: value for key, value in fields.items() if key not in _NOT_OF_THE_RESULT}
        return {**settings, "data": absolute_source(self.data)}
