import numpy as np
import pytest
from keras import ops

from bit_keras.schedules import warmup_staircase

SMALL = {"base": 0.003, "warmup_steps": 100, "boundaries": (150, 300, 450)}


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 0.0),
        (1, 0.00003),
        (50, 0.0015),
        (99, 0.00297),
        (100, 0.003),
        (101, 0.003),
        (149, 0.003),
        (150, 0.0003),
        (299, 0.0003),
        (300, 0.00003),
        (449, 0.00003),
        (450, 0.000003),
        (10_000, 0.000003),
    ],
)
def test_rate_at_each_boundary(step, rate):
    assert warmup_staircase(step, **SMALL) == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize("boundary", SMALL["boundaries"])
def test_after_drops_one_step_later(boundary):
    at, later = (
        warmup_staircase(np.arange(boundary - 1, boundary + 3), **SMALL, after=after)
        for after in (False, True)
    )
    np.testing.assert_array_equal(at[:-1], later[1:])
    assert later[0] == later[1] == pytest.approx(10 * later[2])


def test_no_warmup_starts_at_the_base():
    rule = {"base": 0.1, "warmup_steps": 0, "boundaries": (2,)}
    np.testing.assert_allclose(warmup_staircase(np.arange(4), **rule), [0.1, 0.1, 0.01, 0.01])
    assert warmup_staircase(0, base=0.1, warmup_steps=0, boundaries=()) == 0.1


def test_boundaries_within_the_warmup_count_too():
    rule = {"base": 1.0, "warmup_steps": 10, "boundaries": (5,)}
    np.testing.assert_allclose(warmup_staircase(np.array([4, 5, 10]), **rule), [0.4, 0.05, 0.1])


def test_decay_factor():
    rule = {"base": 1.0, "warmup_steps": 0, "boundaries": (1, 2), "decay": 0.5}
    np.testing.assert_array_equal(warmup_staircase(np.arange(3), **rule), [1.0, 0.5, 0.25])


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("warmup", [0, 100])
@pytest.mark.parametrize("dtype", ["int32", "int64", "float32"])
def test_numpy_and_keras_agree_on_every_step(after, warmup, dtype):
    rule = {**SMALL, "warmup_steps": warmup, "after": after}
    steps = np.arange(500)
    expected = warmup_staircase(steps, **rule)
    rates = warmup_staircase(ops.convert_to_tensor(steps, dtype), **rule, xp=ops)
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


def test_array_and_scalars_agree():
    steps = np.arange(500)
    np.testing.assert_array_equal(
        warmup_staircase(steps, **SMALL), [warmup_staircase(int(s), **SMALL) for s in steps]
    )
