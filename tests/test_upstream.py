import numpy as np
import pytest

from bit_keras import pretrain_recipe
from bit_keras.upstream import RECIPES


@pytest.mark.parametrize(
    ("name", "examples", "classes", "multi_label", "epochs", "decays"),
    [
        ("BiT-S", 1_281_167, 1_000, False, 90, (30, 60, 80)),
        ("BiT-M", 14_200_000, 21_843, True, 90, (30, 60, 80)),
        ("BiT-L", 300_000_000, 18_291, True, 40, (10, 23, 30, 37)),
    ],
)
def test_recipes_are_the_papers(name, examples, classes, multi_label, epochs, decays):
    recipe = pretrain_recipe(name)
    assert (recipe.num_examples, recipe.num_classes) == (examples, classes)
    assert (recipe.multi_label, recipe.epochs, recipe.decay_epochs) == (multi_label, epochs, decays)
    assert recipe.learning_rate == pytest.approx(0.48)
    assert recipe.steps == round(epochs * examples / 4096)
    assert (recipe.batch_size, recipe.warmup_steps, recipe.image_size) == (4096, 5000, 224)
    assert (recipe.momentum, recipe.weight_decay) == (0.9, 1e-4)


@pytest.mark.parametrize("name", RECIPES)
def test_rate_drops_tenfold_exactly_at_each_decay_epoch(name):
    recipe = pretrain_recipe(name)
    assert len(recipe.boundaries) == len(recipe.decay_epochs)
    for boundary in recipe.boundaries:
        before, at = recipe.learning_rate_at(np.array([boundary - 1, boundary]))
        assert at == pytest.approx(before / 10)
    warm = recipe.warmup_steps
    assert recipe.learning_rate_at(0) == 0
    assert recipe.learning_rate_at(warm // 2) == pytest.approx(recipe.learning_rate / 2)
    assert recipe.learning_rate_at(warm) == pytest.approx(recipe.learning_rate)


def test_small_recipe_keeps_the_papers_epochs():
    small, paper = pretrain_recipe("BiT-XS"), pretrain_recipe("BiT-S")
    assert (small.epochs, small.decay_epochs) == (paper.epochs, paper.decay_epochs)
    assert small.learning_rate == pytest.approx(0.12 * 64 / 256)
    assert (small.weight_decay, small.image_size, small.multi_label) == (1e-3, 64, True)


def test_overrides_change_what_follows_from_them():
    recipe = pretrain_recipe("BiT-S").override(batch_size=256, epochs=9, decay_epochs=(3, 6, 8))
    assert recipe.learning_rate == pytest.approx(0.03)
    assert recipe.steps == round(9 * 1_281_167 / 256)
    assert recipe.boundaries[0] == round(3 * 1_281_167 / 256)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epoch": 3}, "No such field: epoch. A recipe has: name, data"),
        ({"batch_size": 0}, "at least 1"),
        ({"epochs": 0}, "at least 1"),
        ({"decay_epochs": (8, 3)}, "must ascend"),
    ],
)
def test_impossible_overrides_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        pretrain_recipe("BiT-S").override(**changes)


def test_unknown_recipe_lists_the_known_ones():
    with pytest.raises(ValueError, match="BiT-S, BiT-M, BiT-L, BiT-XS"):
        pretrain_recipe("BiT-XXL")
