"""Fine-tunes a BiT with plain Keras: `model.compile`, `model.fit` and callbacks.

    python examples/model_fit.py folder:PATH runs/fit --model BiT-M-R50x1 --batch-size 32

The schedule, the resolution and MixUp are the BiT-HyperRule's, as in `bit-keras finetune`.
"""

import argparse
import os

import keras

import bit_keras
from bit_keras.data import eval_batches, train_batches
from bit_keras.sources import load_source
from bit_keras.task import typical_size

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("data", help="folder:PATH, npz:PATH, tfds:NAME or embedded:openclipart-mini")
parser.add_argument("output", help="folder for model and logs")
parser.add_argument("--model", default="BiT-M-R50x1")
parser.add_argument("--scratch", action="store_true", help="start from random weights")
parser.add_argument("--batch-size", type=int, default=32)
parser.add_argument("--steps", type=int, help="default: the rule's")
parser.add_argument("--image-size", type=int, help="side of the crop; default: the rule's")
args = parser.parse_args()
os.makedirs(args.output, exist_ok=True)

source = load_source(args.data)
classes, examples = source.num_classes, source.splits["train"]
rule = bit_keras.hyperrule(examples, *typical_size(source, "train"), args.model)
rule = rule.scaled(args.batch_size, steps=args.steps)
crop = args.image_size or rule.crop
train = train_batches(
    source, "train", batch_size=rule.batch_size, resize=crop * rule.resize // rule.crop, crop=crop,
    num_classes=classes, seed=0, mixup_alpha=rule.mixup_alpha,
).map(lambda batch: (batch["image"], batch["label"]))  # fmt: skip
test = eval_batches(source, "test", batch_size=rule.batch_size, size=crop).map(
    lambda batch: (batch["image"], keras.ops.one_hot(batch["label"], classes), batch["weight"])
)

weights = None if args.scratch else "pretrained"
model = bit_keras.ResNetV2.from_preset(args.model, num_classes=classes, weights=weights)
model.compile(
    optimizer=keras.optimizers.SGD(bit_keras.TransferSchedule(rule), momentum=rule.momentum),
    loss=keras.losses.CategoricalCrossentropy(True, reduction="mean_with_sample_weight"),
    weighted_metrics=["accuracy"],
)
epoch = min(100, rule.steps)
model.fit(
    train, epochs=-(-rule.steps // epoch), steps_per_epoch=epoch, validation_data=test,
    callbacks=[
        keras.callbacks.ModelCheckpoint(f"{args.output}/model.keras"),
        keras.callbacks.CSVLogger(f"{args.output}/metrics.csv"),
        keras.callbacks.BackupAndRestore(f"{args.output}/backup"),
    ],
)  # fmt: skip
bit_keras.save_npz(model, f"{args.output}/model.npz")
