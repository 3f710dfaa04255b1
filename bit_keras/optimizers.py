"""SGD as BiT uses it, and its learning rate as a Keras schedule: for `model.fit` and our loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from bit_keras.recipes import TransferRule
from bit_keras.upstream import PretrainRecipe


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

    _kind: Callable[..., Any] = TransferRule
    _field = "rule"

    def __init__(self, rule: Any) -> None:
        self.rule = rule

    def __call__(self, step: Any) -> Any:
        """The learning rate at a step, a float32 scalar."""
        return self.rule.learning_rate_at(ops.cast(step, "float32"), xp=ops)

    def get_config(self) -> dict[str, Any]:
        """The rule's fields."""
        return {self._field: dataclasses.asdict(self.rule)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> TransferSchedule:
        """Makes the schedule from what `get_config` returned."""
        fields = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in config[cls._field].items()
        }
        return cls(cls._kind(**fields))


@keras.saving.register_keras_serializable("bit_keras")
class PretrainSchedule(TransferSchedule):
    """Learning rate of a `PretrainRecipe` as a function of the step.

    Args:
        recipe: what `bit_keras.pretrain_recipe` returned, perhaps with `.override`.

    Example:
        >>> from bit_keras import pretrain_recipe
        >>> float(PretrainSchedule(pretrain_recipe("BiT-S"))(2_500))
        0.23999999463558197
    """

    _kind = PretrainRecipe
    _field = "recipe"

    def __init__(self, recipe: PretrainRecipe) -> None:
        super().__init__(recipe)


@keras.saving.register_keras_serializable("bit_keras")
class SGD(keras.optimizers.SGD):
    """Keras' SGD with the weight decay of the paper: L2 in the gradient, before the momentum.

    Keras' own `weight_decay` is the decoupled kind: another trajectory for the same number. Here
    v ← m v − η (g + λ w) and w ← w + v, as in the reference. Only kernels decay, the tensors of
    more than one dimension; the vectors (scales and shifts of normalisation, biases) do not.

    Args:
        learning_rate: a number or a schedule.
        momentum: m.
        l2: λ, 0 for none.
        **kwargs: as for `keras.optimizers.SGD`.

    Attributes:
        reduced: True where the caller has summed the gradients over the replicas already.

    Source: paper, section 3.3; docs/pretraining.md says what decays and why.

    Example:
        >>> optimizer = SGD(0.03, momentum=0.9, l2=1e-4)
    """

    def __init__(
        self, learning_rate: Any = 0.01, momentum: float = 0.0, l2: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(learning_rate, momentum, **kwargs)
        self.l2 = l2
        self.reduced = False

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Updates one variable from its gradient."""
        if self.l2 and len(variable.shape) > 1:
            gradient = ops.cast(gradient, variable.dtype) + self.l2 * variable
        super().update_step(gradient, variable, learning_rate)

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
        # Keras' hook for tf.distribute. Our loop sums the gradients itself, because it records
        # their norm; a second sum would multiply them by the number of replicas.
        if self.reduced:
            return list(grads_and_vars)
        return super()._all_reduce_sum_gradients(grads_and_vars)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this optimizer again."""
        return {**super().get_config(), "l2": self.l2}


def sgd(rule: TransferRule) -> SGD:
    """The HyperRule's optimizer: SGD with momentum 0.9, no weight decay (paper, section 3.3)."""
    return SGD(TransferSchedule(rule), momentum=rule.momentum)


def pretrain_sgd(recipe: PretrainRecipe, *, loss_scaling: bool = False) -> Any:
    """The recipe's optimizer: SGD with momentum 0.9 and weight decay (paper, section 3.3).

    Args:
        recipe: of the pre-training.
        loss_scaling: scale the loss dynamically, which float16's small range needs; an update whose
            gradients overflow is left out.
    """
    optimizer = SGD(PretrainSchedule(recipe), momentum=recipe.momentum, l2=recipe.weight_decay)
    return keras.optimizers.LossScaleOptimizer(optimizer) if loss_scaling else optimizer
