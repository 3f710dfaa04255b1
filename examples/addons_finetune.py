"""Fine-tunes a published BiT module in TensorFlow 2.15 with tensorflow-addons' SGDW.

    bit-keras export --model BiT-M-R50x1 --output modules/features
    python examples/addons_finetune.py modules/features photos/ --output photos-model

`photos/` has one sub-folder of JPEG or PNG files for each class. Addons ended with TensorFlow 2.15,
which wants an environment of its own, with Python 3.10 or 3.11, and no bit_keras in it:
pip install tensorflow==2.15.1 tensorflow-addons==0.23.0 tensorflow-hub 'numpy<2' 'typeguard<3' \
    'setuptools<82'
"""

import argparse

import numpy as np
import tensorflow as tf
import tensorflow_addons as tfa
import tensorflow_hub as hub


def group_normalization(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """BiT's group norm by addons, whose own epsilon is another: 1e-3."""
    layer = tfa.layers.GroupNormalization(groups=32, epsilon=1e-5)
    layer.build(x.shape)
    layer.set_weights([gamma, beta])
    return layer(x).numpy()


def compare(module: hub.KerasLayer, path: str) -> None:
    """Prints how far module and group norm are from what bit_keras computed (docs/interop.md)."""
    with np.load(path) as reference:
        outputs = module(reference["images"]).numpy()
        norm = group_normalization(*(reference[f"norm_{x}"] for x in ("input", "gamma", "beta")))
        print(f"module: max difference {np.abs(outputs - reference['outputs']).max():.1e}")
        print(f"GroupNormalization: max difference {np.abs(norm - reference['norm']).max():.1e}")


def classifier(module: hub.KerasLayer, size: tuple, classes: int) -> tf.keras.Model:
    """Module and, where its outputs are not the logits of these classes, a new head."""
    model = tf.keras.Sequential([
        tf.keras.layers.InputLayer((*size, 3)),
        tf.keras.layers.Rescaling(1 / 255),  # the module takes images in [0, 1]
        module,
    ])  # fmt: skip
    if model.output_shape[-1] != classes:
        model.add(tf.keras.layers.Dense(classes, kernel_initializer="zeros"))
    return model


def main() -> None:
    """Reads the flags, trains, and prints how loss and weights changed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("module", help="folder of a fine-tunable module, with a head or without")
    parser.add_argument("images", help="folder with a sub-folder of images for each class")
    parser.add_argument("--output", help="folder for the fine-tuned model, a SavedModel")
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=0.003)
    parser.add_argument("--weight-decay", type=float, default=1e-5, help="SGDW's, of each step")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--reference", help="npz file of what bit_keras computed, to compare with")
    args = parser.parse_args()

    module = hub.KerasLayer(args.module, trainable=True)  # frozen without trainable=True
    if args.reference:
        compare(module, args.reference)

    size = (args.image_size, args.image_size)
    images = tf.keras.utils.image_dataset_from_directory(
        args.images, image_size=size, batch_size=args.batch_size, seed=0
    )
    model = classifier(module, size, len(images.class_names))
    model.compile(
        optimizer=tfa.optimizers.SGDW(args.weight_decay, args.learning_rate, momentum=0.9),
        loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    weights = [weight.numpy() for weight in module.trainable_weights]
    before, _ = model.evaluate(images, verbose=0)
    model.fit(images, epochs=args.epochs, verbose=0)
    loss, accuracy = model.evaluate(images, verbose=0)
    changed = sum(
        not np.array_equal(old, new.numpy())
        for old, new in zip(weights, module.trainable_weights, strict=True)
    )
    print(f"{changed} of {len(weights)} weights changed")
    print(f"loss {before:.4f} → {loss:.4f}, training accuracy {accuracy:.1%}")
    if args.output:
        model.save(args.output, save_format="tf")


if __name__ == "__main__":
    main()
