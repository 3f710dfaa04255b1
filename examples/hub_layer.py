"""Fine-tunes a published BiT module on a folder of images: `hub.KerasLayer` and `model.fit`.

    bit-keras export --model BiT-M-R50x1 --output modules/features
    python examples/hub_layer.py modules/features photos/ --output photos-model

`photos/` has one sub-folder of JPEG or PNG files for each class. `hub.KerasLayer` is a Keras 2
layer, so the model around it is made with tf_keras, not with Keras 3:
pip install tensorflow-hub tf-keras 'setuptools<82'
"""

import argparse

import tensorflow_hub as hub
import tf_keras


def main() -> None:
    """Reads the flags, trains, and prints the accuracy on a fifth of the images, held out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("module", help="folder of a fine-tunable module without a head")
    parser.add_argument("images", help="folder with a sub-folder of images for each class")
    parser.add_argument("--output", help="folder for the fine-tuned model, a SavedModel")
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=0.003)
    parser.add_argument("--epochs", type=int, default=5)
    args = parser.parse_args()

    size = (args.image_size, args.image_size)
    train, test = tf_keras.utils.image_dataset_from_directory(
        args.images, image_size=size, batch_size=args.batch_size,
        validation_split=0.2, subset="both", seed=0,
    )  # fmt: skip
    classes = len(train.class_names)

    model = tf_keras.Sequential([
        tf_keras.layers.InputLayer((*size, 3)),
        tf_keras.layers.Rescaling(1 / 255),  # the module takes images in [0, 1]
        hub.KerasLayer(args.module, trainable=True),  # frozen without trainable=True
        tf_keras.layers.Dense(classes, kernel_initializer="zeros"),
    ])  # fmt: skip
    model.compile(
        optimizer=tf_keras.optimizers.SGD(args.learning_rate, momentum=0.9),
        loss=tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(train.prefetch(2), epochs=args.epochs)
    loss, accuracy = model.evaluate(test, verbose=0)
    print(f"Held-out accuracy {accuracy:.1%} (loss {loss:.3f})")
    if args.output:
        model.save(args.output, save_format="tf")


if __name__ == "__main__":
    main()
