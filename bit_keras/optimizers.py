"""The rule's learning rate as a Keras schedule, for `model.fit` and our own loop alike."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
from keras import ops

from bit_keras.recipes import TransferRule


@keras.saving.register_keras_serializable("bit_keras")
class TransferSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate of a `TransferRule` as a function of the step.

    The numbers come from `TransferRule.learning_rate_at`, computed with `keras.ops`.

    Args:
        rule: what `bit_keras.hyperrule` returned, perhaps `.scaled`.

    Example:
        >>> from bit_keras import hyperrule
        >>> rule = hyperrule(5_000, 32, 32)
        >>> optimizer = keras.optimizers.SGD(TransferSchedule(rule), momentum=rule.momentum)
    """

    def __init__(self, rule: TransferRule) -> None:
        self.rule = rule

    def __call__(self, step: Any) -> Any:
        """The learning rate at a step, a float32 scalar."""
        return self.rule.learning_rate_at(ops.cast(step, "float32"), xp=ops)

    def get_config(self) -> dict[str, Any]:
        """The rule's fields."""
        return {"rule": dataclasses.asdict(self.rule)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> TransferSchedule:
        """Makes the schedule from what `get_config` returned."""
        fields = dict(config["rule"])
        return cls(TransferRule(**{**fields, "boundaries": tuple(fields["boundaries"])}))


def sgd(rule: TransferRule) -> keras.optimizers.SGD:
    """The HyperRule's optimizer: SGD with momentum 0.9, no weight decay (paper, section 3.3)."""
    return keras.optimizers.SGD(TransferSchedule(rule), momentum=rule.momentum)
