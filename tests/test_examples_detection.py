import importlib.util
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from bit_keras import ResNetV2
from bit_keras.detection_recipe import DetectionRecipe

pytestmark = pytest.mark.long
pytest.importorskip("keras_hub", reason="needs bit-keras[detection]")

EXAMPLE = Path(__file__).parents[1] / "examples" / "detection.py"
RECIPE = replace(DetectionRecipe().scaled(2), image_size=96, num_classes=3)


@pytest.fixture(scope="module")
def example():
    specification = importlib.util.spec_from_file_location("detection_example", EXAMPLE)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model(example):
    return example.detector(ResNetV2(26, 0.25), RECIPE)


def test_the_loss_is_retinanets(example, model):
    """Sums over classes and coordinates by the number of positive anchors, with α and γ."""
    images, y = next(iter(example.batches(example.scenes(4, RECIPE), RECIPE)))
    outputs = model(images)
    found = float(model.compute_loss(images, y, outputs, None))

    boxes, labels = model.label_encoder(images=images, gt_boxes=y["boxes"], gt_classes=y["labels"])
    boxes, labels = np.array(boxes), np.array(labels)
    positive, counted = labels >= 0, labels != -2
    assert positive.sum() > 2
    truth = labels[..., None] == np.arange(RECIPE.num_classes)
    logits = np.float64(outputs["cls_logits"])
    p = 1 / (1 + np.exp(-logits))
    focal = np.where(truth, 0.25 * (1 - p) ** 2 * -np.log(p), 0.75 * p**2 * -np.log(1 - p)).sum(-1)
    off = np.abs(np.float64(outputs["bbox_regression"]) - boxes)
    huber = np.where(off < 1, off**2 / 2, off - 0.5).sum(-1)
    expected = (focal[counted].sum() + huber[positive].sum()) / positive.sum()
    assert found == pytest.approx(expected, rel=1e-4)


def test_an_empty_box_counts_for_nothing(example, model):
    images, y = next(iter(example.batches(example.scenes(4, RECIPE), RECIPE)))
    outputs = model(images)
    padded = {
        "boxes": tf.concat([tf.zeros((2, 1, 4)), y["boxes"]], 1),
        "labels": tf.concat([tf.zeros((2, 1)), y["labels"]], 1),
    }
    expected = float(model.compute_loss(images, y, outputs, None))
    assert float(model.compute_loss(images, padded, outputs, None)) == pytest.approx(expected)


def test_objects_start_at_their_prior(example, model):
    outputs = model(tf.zeros((1, 96, 96, 3)))
    p = 1 / (1 + np.exp(-np.array(outputs["cls_logits"])))
    np.testing.assert_allclose(p, example.PRIOR, rtol=0.2)
    assert np.abs(outputs["bbox_regression"]).max() < 0.1


def test_a_step_changes_the_whole_backbone_up_to_p5(example):
    backbone = ResNetV2(26, 0.25)
    model = example.detector(backbone, RECIPE)
    before = [np.array(weight) for weight in backbone.weights]
    history = model.fit(
        example.batches(example.scenes(4, RECIPE), RECIPE), steps_per_epoch=1, verbose=0,
        shuffle=False,
    ).history  # fmt: skip
    assert math.isfinite(history["loss"][0])
    same = [
        weight.path
        for old, weight in zip(before, backbone.weights, strict=True)
        if np.array_equal(old, np.array(weight))
    ]
    assert [path.split("/")[-2] for path in same] == ["group_norm", "group_norm"]


def drawn(box):
    """A black image with a white box."""
    left, top, right, bottom = box
    image = np.full((96, 96, 3), -1, np.float32)
    image[top:bottom, left:right] = 1
    return tf.constant(image), tf.constant([box], tf.float32)


def seen(image):
    """The box of what is white: left, top, right, bottom."""
    rows, columns = np.nonzero(np.array(image)[..., 0] > 0)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_a_flip_takes_the_boxes_with_it(example):
    image, boxes = example.flip(*drawn((10, 20, 40, 70)))
    assert np.array(boxes).tolist() == [[56, 20, 86, 70]]
    assert seen(image) == [56, 20, 86, 70]


@pytest.mark.parametrize("scale", [0.6, 0.8, 1.2, 1.5])
def test_scale_jitter_takes_the_boxes_with_it(example, scale):
    tf.random.set_seed(3)
    for _ in range(5):
        image, boxes = example.jitter(*drawn((36, 40, 64, 60)), tf.constant(scale))
        np.testing.assert_allclose(np.array(boxes)[0], seen(image), atol=1)
        width, height = 28 * scale, 20 * scale
        left, top, right, bottom = np.array(boxes)[0]
        assert (right - left, bottom - top) == pytest.approx((width, height), abs=1e-3)


def test_a_box_that_leaves_the_image_is_empty(example):
    for seed in range(20):
        tf.random.set_seed(seed)
        _, boxes = example.jitter(*drawn((0, 0, 4, 4)), tf.constant(3.0))
        left, top, right, bottom = np.array(boxes)[0]
        assert 0 <= left <= right <= 96
        assert 0 <= top <= bottom <= 96
        if (right - left) * (bottom - top) == 0:
            return
    pytest.fail("in twenty crops the corner was never lost")


def test_example_trains_with_a_finite_falling_loss():
    done = subprocess.run(
        [sys.executable, EXAMPLE, "--image-size=96", "--batch-size=4", "--steps=15"],
        capture_output=True, text=True, timeout=900, check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    losses = [float(loss) for loss in re.findall(r"loss (\S+)", done.stdout)]
    assert len(losses) == 15
    assert all(map(math.isfinite, losses))
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
