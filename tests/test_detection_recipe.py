import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from bit_keras.detection_recipe import PAPER_AP, DetectionRecipe


def test_recipe_is_that_of_appendix_e():
    recipe = DetectionRecipe()
    assert recipe.architecture == "R101x3"
    assert (recipe.image_size, recipe.epochs, recipe.batch_size) == (1024, 30, 256)
    assert (recipe.learning_rate, recipe.decay_epochs) == (0.08, (16, 22))
    assert (recipe.weight_decay, recipe.focal_alpha, recipe.focal_gamma) == (1e-4, 0.25, 2)
    assert recipe.random_flip
    assert recipe.scale_jitter
    assert PAPER_AP == {"literature": 40.8, "BiT-S": 41.7, "BiT-M": 43.2, "BiT-L": 43.8}


def test_learning_rate_drops_at_epochs_16_and_22():
    recipe = DetectionRecipe()
    epoch = recipe.num_examples / recipe.batch_size
    first, second = recipe.boundaries
    assert (first, second) == (round(16 * epoch), round(22 * epoch))
    steps = np.array([0, first - 1, first, second - 1, second, recipe.steps - 1])
    expected = [0.08, 0.08, 0.008, 0.008, 0.0008, 0.0008]
    np.testing.assert_allclose(recipe.learning_rate_at(steps), expected)


def test_another_batch_keeps_epochs_and_scales_the_rate():
    recipe = DetectionRecipe().scaled(64)
    assert recipe.batch_size == 64
    assert recipe.learning_rate == 0.02
    assert recipe.steps == pytest.approx(4 * DetectionRecipe().steps, abs=2)
    assert dataclasses.replace(recipe, batch_size=256, learning_rate=0.08) == DetectionRecipe()


def test_a_batch_below_one_is_refused():
    with pytest.raises(ValueError, match="at least 1. Received: 0"):
        DetectionRecipe().scaled(0)


def test_recipe_needs_no_tensorflow():
    code = "import sys, bit_keras.detection_recipe; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
