import keras
import numpy as np
import pytest

from bit_keras import hyperrule
from bit_keras.optimizers import TransferSchedule, sgd


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_schedule_equals_the_rule_at_every_step(variant):
    rule = hyperrule(1_000, 32, 32, variant=variant)
    steps = np.arange(rule.steps + 2)
    got = np.array([float(TransferSchedule(rule)(step)) for step in steps[::7]])
    np.testing.assert_allclose(got, rule.learning_rate_at(steps)[::7], rtol=1e-6)


def test_schedule_drops_exactly_at_the_boundary():
    rule = hyperrule(1_000, 32, 32)
    schedule = TransferSchedule(rule)
    for boundary in rule.boundaries:
        assert float(schedule(boundary)) == pytest.approx(float(schedule(boundary - 1)) / 10)


def test_schedule_survives_serialization():
    schedule = TransferSchedule(hyperrule(30_000, 200, 200).scaled(64))
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert again.rule == schedule.rule


def test_optimizer_has_momentum_and_no_weight_decay():
    optimizer = sgd(hyperrule(1_000, 32, 32))
    assert optimizer.momentum == 0.9
    assert optimizer.weight_decay is None
    assert not optimizer.nesterov
