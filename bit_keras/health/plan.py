"""What a run meant to do, from its config.json, beside what the recipe says for its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bit_keras.recipes import hyperrule


@dataclass(frozen=True)
class Plan:
    """Settings of a run; None for what its config.json does not say.

    Attributes:
        kind: "pre-training", "fine-tuning", or "training" for another.
        model: the preset.
        data: the data set.
        num_examples: training examples.
        steps: updates in all.
        batch_size: examples of an update.
        warmup_steps: updates of linear warm-up.
        boundaries: steps at which the learning rate drops.
        learning_rate: after the warm-up.
        momentum: of SGD.
        weight_decay: of kernels.
        epochs: passes over the data.
        paper: the recipe for as many examples.
    """

    kind: str = "training"
    model: str | None = None
    data: str | None = None
    num_examples: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    warmup_steps: int | None = None
    boundaries: tuple[int, ...] = ()
    learning_rate: float | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    epochs: float | None = None
    paper: Plan | None = None

    @property
    def images(self) -> int | None:
        """Images seen in all: steps × batch."""
        return self.steps * self.batch_size if self.steps and self.batch_size else None

    def decay_time(self, learning_rate: float) -> float | None:
        """Steps in which weight decay alone shrinks the squared norm of the weights by e.

        (1 − momentum) / (2 · learning rate · weight decay), since an update with momentum moves the
        weights by learning rate / (1 − momentum) in the long run. None without decay.

        Example:
            >>> round(Plan(momentum=0.9, weight_decay=1e-4).decay_time(0.48))
            1042
        """
        if not self.weight_decay or not learning_rate > 0:
            return None
        return (1 - (self.momentum or 0.0)) / (2 * learning_rate * self.weight_decay)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Plan:
        """Reads what config.json says, of a pre-training, of a fine-tuning, or of neither."""
        options = config.get("options", {})
        common = {
            "model": options.get("model"),
            "data": options.get("data"),
            "num_examples": config.get("num_examples"),
        }
        if "recipe" in config:
            paper = config.get("recipe_of_paper")
            return cls(
                kind="pre-training",
                **{**common, **_settings(config["recipe"])},
                paper=cls(**_settings(paper)) if paper else None,
            )
        if "rule" in config and config.get("num_examples"):
            rule, examples = config["rule"], config["num_examples"]
            # The images' size, which is unknown here, does not change the schedule.
            paper = hyperrule(examples, 224, 224).scaled(rule["batch_size"])
            epochs = rule["steps"] * rule["batch_size"] / examples
            return cls(
                kind="fine-tuning",
                **{**common, **_settings(rule), "epochs": epochs},
                paper=cls(**_settings(vars(paper))),
            )
        return cls(**common)


def _settings(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a recipe or rule that a plan has."""
    names = (
        "num_examples", "steps", "batch_size", "warmup_steps", "boundaries", "learning_rate",
        "momentum", "weight_decay", "epochs",
    )  # fmt: skip
    found = {name: fields[name] for name in names if name in fields}
    if "boundaries" in found:
        found["boundaries"] = tuple(found["boundaries"])
    return found
