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
from bit_keras.report import plot_transfer
from bit_keras.runs import RunFolder
from bit_keras.sources import ASSETS
from bit_keras.transfer import finetune

DATA = "openclipart-mini"
MODEL = "BiT-XS-R26x0.5"
TOLERANCE = 1e-5  # between the Keras model and its module, which run the same operations

# 64 pixels, as in the pre-training, and small batches: minutes on two CPU cores. The rule's own
# rate; from random weights a higher one is better, so the comparison is with that.
SMALL = {"batch_size": 32, "resize": 80, "crop": 64}
RATE, RATE_FROM_SCRATCH = 0.003, 0.02
EVALUATIONS = 6  # points of each curve


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


def _train(options: QuickstartOptions, *, pretrained: bool) -> tuple[Evaluation, RunFolder]:
    """Fine-tunes, or trains the same network on the same images from random weights."""
    output = options.output if pretrained else f"{options.output}-from-scratch"
    evaluation = finetune(
        FinetuneOptions(
            data=f"embedded:{DATA}",
            output=output,
            model=MODEL,
            weights="pretrained" if pretrained else "none",
            learning_rate=RATE if pretrained else RATE_FROM_SCRATCH,
            steps=options.steps,
            evaluate_every=-(-options.steps // EVALUATIONS),
            export=pretrained,
            seed=options.seed,
            progress=options.progress,
            overwrite=RunFolder(output).config.is_file(),
            **SMALL,  # type: ignore[arg-type]
        )
    )
    return evaluation, RunFolder(output)


def quickstart(options: QuickstartOptions) -> Evaluation:
    """Fine-tunes on embedded images beside training from scratch, exports, reads the module back.

    Returns:
        The evaluation of the fine-tuned model.

    Raises:
        ArithmeticError: when the module does not compute what the model computes.

    Example:
        >>> quickstart(QuickstartOptions(output="runs/quickstart")).top1  # doctest: +SKIP
        0.69
    """
    started = time.perf_counter()
    print(f"1/2 Fine-tuning the pre-trained {MODEL} on embedded:{DATA}.")
    evaluation, folder = _train(options, pretrained=True)
    print(f"2/2 Training {MODEL} from scratch on the same images, to compare.")
    scratch, scratch_folder = _train(options, pretrained=False)
    picture = folder.path / "transfer.png"
    plot_transfer(folder, scratch_folder, picture, f"{MODEL} on embedded:{DATA}")

    run = open_run(options.output)
    files = sorted((ASSETS / DATA / "test").glob("*/*.png"))
    file = files[options.seed % len(files)]
    image = resize_square(decode_image(file.read_bytes()), run.image_size) / 255.0
    difference = _check_module(run, image.numpy()[None])
    _, best = next(classify(run, [file]))
    served = _check_serving(run, file)

    chance = 1 / len(run.class_names)
    minutes, seconds = divmod(round(time.perf_counter() - started), 60)
    print(
        f"""
{evaluation_text(evaluation)}

Fine-tuned       {evaluation.top1:.1%} top-1 of {evaluation.examples} held-out images
From scratch     {scratch.top1:.1%} after as many steps, chance {chance:.1%}
hub.KerasLayer   equals the Keras model: max |difference| of logits {difference:.1e}
One image        {file.parent.name}/{file.name} → {", ".join(f"{n} {p:.0%}" for n, p in best)}
Serving module   says {served} for the same bytes
Time             {minutes} min {seconds} s

Both curves      {picture}
Learning curve   {folder.curve}
Confusion        {folder.confusion}
Weights          {folder.npz}
TF-Hub module    {folder.module}
Serving module   {folder.serving}

Next: bit-keras predict --run {options.output} YOUR_IMAGES
      bit-keras finetune --data folder:YOUR_FOLDER --output runs/yours --model {MODEL} \\
        --batch_size 32 --resize 80 --crop 64"""
    )
    return evaluation
