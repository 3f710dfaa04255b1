"""`make quickstart`: the whole way, from images that come with the package to a module."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from bit_keras.evaluate import Evaluation
from bit_keras.finished import FinishedRun, classify, evaluation_text, open_run
from bit_keras.images import decode_image
from bit_keras.options import FinetuneOptions, QuickstartOptions
from bit_keras.preprocess import resize_square, to_model_range
from bit_keras.runs import RunFolder
from bit_keras.sources import ASSETS
from bit_keras.transfer import finetune

DATA = "openclipart-mini"
MODEL = "BiT-XS-R26x0.5"
TOLERANCE = 1e-5  # between the Keras model and its module, which run the same operations

# From scratch on few images: 64 pixels, small batches and a higher rate than a transfer's.
FROM_SCRATCH = {"batch_size": 32, "resize": 72, "crop": 64, "learning_rate": 0.02}


def _check_module(run: FinishedRun, images: np.ndarray) -> float:
    """Largest difference of logits between hub.KerasLayer and the Keras model.

    Args:
        run: the run whose module is checked.
        images: float32 [B, H, W, 3] in [0, 1].

    Raises:
        ImportError: without tensorflow-hub.
        ArithmeticError: when module and model differ.
    """
    try:
        import tensorflow_hub as hub
    except ImportError as error:
        raise ImportError(
            "The quickstart loads its module with tensorflow-hub: pip install 'bit-keras[hub]'."
        ) from error
    layer = hub.KerasLayer(str(run.folder.module), trainable=True)
    expected = run.model(to_model_range(images), training=False)
    difference = float(tf.reduce_max(tf.abs(layer(images) - expected)))
    if not difference <= TOLERANCE * max(1.0, float(tf.reduce_max(tf.abs(expected)))):
        raise ArithmeticError(f"The module differs from the model by {difference:g}.")
    return difference


def _check_serving(run: FinishedRun, file: Path) -> str:
    """The class that the serving module gives one encoded image."""
    serving = tf.saved_model.load(str(run.folder.serving))
    answer = serving.signatures["serving_bytes"](tf.constant([file.read_bytes()]))
    return run.class_names[int(tf.argmax(answer["probabilities"][0]))]


def quickstart(options: QuickstartOptions) -> Evaluation:
    """Fine-tunes on embedded images, evaluates, exports, and reads the module back.

    Raises:
        ArithmeticError: when the module does not compute what the model computes.

    Example:
        >>> quickstart(QuickstartOptions(output="runs/quickstart")).top1  # doctest: +SKIP
        0.68
    """
    started = time.perf_counter()
    print(f"Training {MODEL} from scratch on embedded:{DATA} (no pre-trained weights yet).")
    evaluation = finetune(
        FinetuneOptions(
            data=f"embedded:{DATA}",
            output=options.output,
            model=MODEL,
            weights="none",
            steps=options.steps,
            seed=options.seed,
            progress=options.progress,
            overwrite=RunFolder(options.output).config.is_file(),
            **FROM_SCRATCH,  # type: ignore[arg-type]
        )
    )
    run = open_run(options.output)
    files = sorted((ASSETS / DATA / "test").glob("*/*.png"))
    file = files[options.seed % len(files)]
    image = resize_square(decode_image(file.read_bytes()), run.image_size) / 255.0
    difference = _check_module(run, image.numpy()[None])
    _, best = next(classify(run, [file]))
    served = _check_serving(run, file)

    folder = run.folder
    chance = 1 / len(run.class_names)
    minutes, seconds = divmod(round(time.perf_counter() - started), 60)
    print(
        f"""
{evaluation_text(evaluation)}

Top-1 accuracy   {evaluation.top1:.1%} of {evaluation.examples} held-out images, chance {chance:.1%}
hub.KerasLayer   equals the Keras model: max |difference| of logits {difference:.1e}
One image        {file.parent.name}/{file.name} → {", ".join(f"{n} {p:.0%}" for n, p in best)}
Serving module   says {served} for the same bytes
Time             {minutes} min {seconds} s

Learning curve   {folder.curve}
Confusion        {folder.confusion}
Weights          {folder.npz}
TF-Hub module    {folder.module}
Serving module   {folder.serving}

Next: bit-keras predict --run {options.output} YOUR_IMAGES
      bit-keras finetune --data folder:YOUR_FOLDER --output runs/yours --batch_size 32"""
    )
    return evaluation
