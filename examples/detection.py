"""Trains keras-hub's RetinaNet on a BiT, by the paper's detection recipe (appendix E).

    pip install 'bit-keras[detection]'
    python examples/detection.py --steps 20   # BiT-XS on drawn scenes

For images of your own, put your tf.data.Dataset in place of `scenes`: elements (image, boxes,
labels), float32 [S, S, 3] in [-1, 1], float32 [N, 4] as (left, top, right, bottom) in pixels and
float32 [N], with empty boxes (0, 0, 0, 0) where an image has fewer than N objects; S is the
recipe's image_size.
"""

import argparse
import dataclasses
import math

import keras
import numpy as np
import tensorflow as tf
from keras_hub.models import RetinaNetBackbone, RetinaNetObjectDetector

import bit_keras
from bit_keras.detection_recipe import DetectionRecipe
from bit_keras.optimizers import SGD, TransferSchedule

PRIOR = 0.01  # probability of an object at the start (RetinaNet paper, section 4.1)
SCALES = (0.8, 1.2)  # of the scale jitter; the range is ours


class DetectionSchedule(TransferSchedule):
    """The recipe's learning rate as a function of the step."""

    _kind, _field = DetectionRecipe, "recipe"


def initialize(head: keras.layers.Layer, bias: float) -> None:
    """Starts a head as the RetinaNet paper does (section 4.1).

    keras-hub 0.32 starts it from five times larger kernels, with which the recipe's learning rate
    diverges, and gives the prior's bias to the boxes instead of the classes.
    """
    for weight in head.trainable_variables:
        if len(weight.shape) > 1:
            weight.assign(keras.random.normal(weight.shape, stddev=0.01))
    head.prediction_layer.bias.assign(np.full(head.prediction_layer.bias.shape, bias))


def detector(backbone: bit_keras.ResNetV2, recipe: DetectionRecipe) -> RetinaNetObjectDetector:
    """A RetinaNet on the `pyramid_outputs` of a BiT, compiled with the recipe's losses and SGD."""
    backbone.get_layer("group_norm").trainable = False  # comes after the last of the pyramid
    pyramid = RetinaNetBackbone(backbone, recipe.min_level, recipe.max_level, use_p5=False)
    model = RetinaNetObjectDetector(pyramid, recipe.num_classes, bounding_box_format="xyxy")
    initialize(model.box_head, 0)
    initialize(model.classification_head, math.log(PRIOR / (1 - PRIOR)))
    model.compile(
        SGD(DetectionSchedule(recipe), momentum=recipe.momentum, l2=recipe.weight_decay),
        # keras-hub's own focal loss has no α.
        classification_loss=keras.losses.BinaryFocalCrossentropy(
            apply_class_balancing=True, alpha=recipe.focal_alpha, gamma=recipe.focal_gamma,
            from_logits=True, reduction="sum",
        ),
        box_loss=keras.losses.Huber(reduction="sum"),
        # Keras takes means over classes and coordinates; RetinaNet's losses are sums.
        loss_weights={"cls_logits": recipe.num_classes, "bbox_regression": 4},
    )  # fmt: skip
    return model


def flip(image: tf.Tensor, boxes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Mirrors an image and its boxes."""
    left, top, right, bottom = tf.unstack(boxes, axis=1)
    width = tf.cast(tf.shape(image)[1], tf.float32)
    boxes = tf.stack([width - right, top, width - left, bottom], 1)
    return tf.image.flip_left_right(image), boxes


def jitter(image: tf.Tensor, boxes: tf.Tensor, scale: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Scales an image about a random place, in its frame; what is beyond its border is grey.

    A box that leaves the frame is empty then, and matches no anchor.
    """
    window = 1 / scale  # what of the image is seen, as a part of its sides
    offset = tf.random.uniform([2]) * (1 - window)  # top and left; below 0 for a smaller image
    side = image.shape[0]
    frame = tf.concat([offset, offset + window], 0)[None]
    image = tf.image.crop_and_resize(image[None], frame, [0], (side, side))[0]
    shift = tf.tile(tf.reverse(offset, [0]), [2]) * side
    return image, tf.clip_by_value((boxes - shift) * scale, 0, side)


def augment(image: tf.Tensor, boxes: tf.Tensor, labels: tf.Tensor, recipe: DetectionRecipe):
    """One training image by the recipe: flipped or not, scaled, its boxes with it."""
    if recipe.random_flip:
        image, boxes = tf.cond(
            tf.random.uniform([]) < 0.5, lambda: flip(image, boxes), lambda: (image, boxes)
        )
    if recipe.scale_jitter:
        image, boxes = jitter(image, boxes, tf.random.uniform([], *SCALES))
    return image, boxes, labels


def batches(data: tf.data.Dataset, recipe: DetectionRecipe) -> tf.data.Dataset:
    """What `fit` takes: images and a dict of boxes and labels, endlessly."""
    data = data.repeat().map(lambda *scene: augment(*scene, recipe))
    data = data.batch(recipe.batch_size, drop_remainder=True).prefetch(2)
    return data.map(lambda image, boxes, labels: (image, {"boxes": boxes, "labels": labels}))


def scenes(count: int, recipe: DetectionRecipe, objects: int = 3) -> tf.data.Dataset:
    """Rectangles on noise at random places, each class of another colour."""
    rng = np.random.default_rng(0)
    size = recipe.image_size
    images = rng.normal(0, 0.2, (count, size, size, 3)).astype(np.float32)
    colours = np.random.default_rng(1).uniform(-1, 1, (recipe.num_classes, 3))
    corners = rng.uniform(0, 0.6, (count, objects, 2))
    sides = rng.uniform(0.3, 0.4, (count, objects, 2))
    boxes = np.round(np.concatenate([corners, corners + sides], 2) * size).astype(np.float32)
    labels = rng.integers(0, recipe.num_classes, (count, objects))
    for image, drawn, kinds in zip(images, boxes.astype(int), labels, strict=True):
        for (left, top, right, bottom), kind in zip(drawn, kinds, strict=True):
            image[top:bottom, left:right] += colours[kind]
    images = np.clip(images, -1, 1)
    return tf.data.Dataset.from_tensor_slices((images, boxes, labels.astype(np.float32)))


def main() -> None:
    """Reads the flags, trains, and prints the loss of each step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="BiT-XS-R26x0.5", help="a preset with weights")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--classes", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()

    keras.utils.set_random_seed(0)
    recipe = dataclasses.replace(
        DetectionRecipe().scaled(args.batch_size),
        architecture=args.model, image_size=args.image_size, num_classes=args.classes,
    )  # fmt: skip
    print(recipe)
    model = detector(bit_keras.ResNetV2.from_preset(args.model), recipe)
    say = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda step, logs: print(f"step {step + 1}: loss {logs['loss']:.4f}")
    )
    model.fit(
        batches(scenes(16, recipe), recipe), epochs=args.steps, steps_per_epoch=1,
        shuffle=False, verbose=0, callbacks=[say],
    )  # fmt: skip


if __name__ == "__main__":
    main()
