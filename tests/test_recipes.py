import dataclasses

import numpy as np
import pytest
from keras import ops

from bit_keras import hyperrule

# examples → steps, warm-up, ÷10 in the paper, ÷10 in the code, MixUp (paper, section 3.3).
SMALL = (500, 100, (150, 300, 450), (200, 300, 400), None)
MEDIUM = (10_000, 500, (3_000, 6_000, 9_000), (3_000, 6_000, 9_000), 0.1)
LARGE = (20_000, 500, (6_000, 12_000, 18_000), (6_000, 12_000, 18_000), 0.1)


@pytest.mark.parametrize("variant", ["paper", "code"])
@pytest.mark.parametrize(
    ("num_examples", "expected"),
    [
        (1, SMALL),
        (19_999, SMALL),
        (20_000, MEDIUM),
        (20_001, MEDIUM),
        (499_999, MEDIUM),
        (500_000, LARGE),
        (500_001, LARGE),
        (1_281_167, LARGE),
    ],
)
def test_schedule_follows_the_number_of_examples(num_examples, expected, variant):
    rule = hyperrule(num_examples, 32, 32, variant=variant)
    steps, warmup, paper, code, alpha = expected
    assert rule.steps == steps
    assert rule.warmup_steps == warmup
    assert rule.boundaries == (paper if variant == "paper" else code)
    assert rule.mixup_alpha == alpha


@pytest.mark.parametrize(
    ("height", "width", "small"),
    [
        (1, 1, True),
        (32, 32, True),
        (95, 97, True),  # 9,215 pixels, one below 96²
        (96, 96, False),
        (97, 95, True),
        (1, 9_215, True),
        (1, 9_216, False),
        (144, 64, False),  # 9,216 exactly
        (96, 95, True),
        (224, 224, False),
    ],
)
@pytest.mark.parametrize(
    ("variant", "arch", "large"),
    [
        ("paper", "R50x1", (448, 384)),
        ("paper", "R152x2", (448, 384)),
        ("paper", "R152x4", (512, 480)),
        ("paper", "BiT-M-R152x4", (512, 480)),
        ("paper", "BiT-M-R152x4-ILSVRC2012", (512, 480)),
        ("code", "R50x1", (512, 480)),
        ("code", "R152x4", (512, 480)),
    ],
)
def test_resolution_follows_the_area(height, width, small, variant, arch, large):
    rule = hyperrule(1_000, height, width, arch, variant)
    assert (rule.resize, rule.crop) == ((160, 128) if small else large)


@pytest.mark.parametrize("variant", ["paper", "code"])
@pytest.mark.parametrize("num_examples", [1, 20_000, 500_000])
def test_learning_rate_step_by_step_around_each_boundary(num_examples, variant):
    rule = hyperrule(num_examples, 32, 32, variant=variant)
    late = variant == "code"  # `s < step` in the code: the drop comes one step after
    for drops, boundary in enumerate(rule.boundaries):
        before, dropped = 0.003 / 10**drops, 0.003 / 10 ** (drops + 1)
        expected = {
            boundary - 2: before,
            boundary - 1: before,
            boundary: before if late else dropped,
            boundary + 1: dropped,
            boundary + 2: dropped,
        }
        for step, rate in expected.items():
            assert rule.learning_rate_at(step) == pytest.approx(rate, rel=1e-12), step


@pytest.mark.parametrize(("num_examples", "warmup"), [(1, 100), (20_000, 500), (500_000, 500)])
def test_learning_rate_around_the_warmup(num_examples, warmup):
    rule = hyperrule(num_examples, 32, 32)
    for step in (0, 1, 2, warmup // 2, warmup - 1, warmup, warmup + 1):
        expected = 0.003 * min(step, warmup) / warmup
        assert rule.learning_rate_at(step) == pytest.approx(expected, rel=1e-12), step


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_learning_rate_of_tensors(variant):
    rule = hyperrule(1_000, 32, 32, variant=variant)
    steps = np.arange(rule.steps)
    rates = rule.learning_rate_at(ops.convert_to_tensor(steps), xp=ops)
    np.testing.assert_allclose(rates, rule.learning_rate_at(steps), rtol=1e-6)


def test_what_never_changes():
    for examples in (1, 20_000, 500_000):
        rule = hyperrule(examples, 224, 224)
        assert (rule.learning_rate, rule.momentum, rule.batch_size) == (0.003, 0.9, 512)


def test_rule_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        hyperrule(1, 1, 1).steps = 3


def test_derivation_says_where_the_numbers_come_from():
    text = hyperrule(50_000, 32, 48, variant="code").derivation
    for part in ("BiT-HyperRule", "code", "medium", "50,000", "32×48"):
        assert part in text


@pytest.mark.parametrize(
    ("batch_size", "rate", "steps", "warmup", "boundaries"),
    [
        (128, 0.00075, 2_000, 400, (600, 1_200, 1_800)),
        (512, 0.003, 500, 100, (150, 300, 450)),
        (1_024, 0.006, 250, 50, (75, 150, 225)),
        (100, 0.003 * 100 / 512, 2_560, 512, (768, 1_536, 2_304)),
    ],
)
def test_scaled_keeps_examples_seen(batch_size, rate, steps, warmup, boundaries):
    rule = hyperrule(1_000, 32, 32).scaled(batch_size=batch_size)
    assert rule.batch_size == batch_size
    assert rule.learning_rate == pytest.approx(rate, rel=1e-12)
    assert (rule.steps, rule.warmup_steps, rule.boundaries) == (steps, warmup, boundaries)


def test_scaled_says_how():
    rule = hyperrule(1_000, 32, 32)
    scaled = rule.scaled(128)
    assert scaled.derivation.startswith(rule.derivation)
    for part in ("512 → 128", "learning rate × 0.25", "boundaries × 4"):
        assert part in scaled.derivation


def test_scaled_leaves_the_rest():
    rule = hyperrule(1_000, 32, 32, variant="code")
    scaled = rule.scaled(64)
    for name in ("resize", "crop", "mixup_alpha", "momentum", "decay_after_boundary"):
        assert getattr(scaled, name) == getattr(rule, name)


def test_scaled_there_and_back():
    rule = hyperrule(50_000, 32, 32)
    again = rule.scaled(64).scaled(512)
    assert dataclasses.replace(again, derivation="") == dataclasses.replace(rule, derivation="")


def test_scaled_to_a_budget_of_steps_keeps_the_fractions():
    rule = hyperrule(1_000, 32, 32).scaled(128, steps=100)
    assert (rule.steps, rule.warmup_steps, rule.boundaries) == (100, 20, (30, 60, 90))
    assert rule.learning_rate == pytest.approx(0.00075)


def test_scaled_to_a_huge_batch_keeps_one_step():
    assert hyperrule(1, 1, 1).scaled(10**9).steps == 1


@pytest.mark.parametrize(("batch_size", "steps"), [(0, None), (-1, None), (8, 0)])
def test_scaled_refuses_nothing(batch_size, steps):
    with pytest.raises(ValueError, match=f"batch_size={batch_size}, steps={steps}"):
        hyperrule(1, 1, 1).scaled(batch_size, steps=steps)


@pytest.mark.parametrize("size", [(0, 32, 32), (10, 0, 32), (10, 32, -1)])
def test_task_without_examples_or_pixels_is_an_error(size):
    with pytest.raises(ValueError, match="at least 1"):
        hyperrule(*size)


def test_unknown_variant_is_an_error():
    with pytest.raises(ValueError, match="'paper' or 'code'.*'Paper'"):
        hyperrule(1, 1, 1, variant="Paper")


def test_unknown_architecture_is_an_error():
    with pytest.raises(ValueError, match="ResNet50"):
        hyperrule(1, 1, 1, arch="ResNet50")
