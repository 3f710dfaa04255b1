"""The module card: a page in TF-Hub's format that says all a user has to know."""

from __future__ import annotations

from hub_export.catalog import WEIGHTS_LICENCE, Spec

# Stands for the address or folder that holds the modules; the site puts its own there.
HUB = "HUB"


def outputs(spec: Spec) -> str:
    """What the module returns, in words and shape."""
    features = spec.preset.architecture.features
    if spec.num_classes is None:
        return f"float32 [B, {features}], features before a head"
    loss = "sigmoid" if spec.upstream.multi_label else "softmax"
    return f"float32 [B, {spec.num_classes}], logits before {loss}"


def parameters(spec: Spec) -> int:
    """Number of weights, all of them trainable."""
    return spec.preset.architecture.parameters(spec.num_classes)


def render(spec: Spec, weights_sha256: str, labelled: bool) -> str:
    """The card of a module: Markdown, the same bytes for the same inputs.

    Args:
        spec: the module.
        weights_sha256: of the npz file it is made of.
        labelled: whether class names are stored in the module.
    """
    parts = [
        _head(spec),
        _facts(spec, weights_sha256, labelled),
        _accuracy(spec),
        f"## Training data and licence\n\n{spec.upstream.training}\n\nData: "
        f"{spec.upstream.data_licence}\nWeights: {WEIGHTS_LICENCE}.",
        "## Limitations\n\n" + "\n".join(f"- {text}" for text in spec.upstream.limitations),
        _use(spec),
        _serving(spec),
        "## References\n\n- A. Kolesnikov, L. Beyer, X. Zhai et al.: "
        "[Big Transfer (BiT): General Visual Representation Learning]"
        "(https://arxiv.org/abs/1912.11370), 2020.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(spec: Spec) -> str:
    depth = spec.preset.architecture.depth
    classify = spec.num_classes is not None
    task = "image-classification" if classify else "image-feature-vector"
    purpose = (
        f"Classifies images into {spec.num_classes:,} classes."
        if classify
        else f"Turns images into {spec.preset.architecture.features:,} features for any task."
    )
    return f"""# Module {spec.handle}

{purpose} {spec.preset.name}, a Big Transfer (BiT) ResNetV2.

<!-- asset-path: {spec.handle}.tar.gz -->
<!-- task: {task} -->
<!-- network-architecture: resnet{depth}-v2 -->
<!-- dataset: {spec.upstream.dataset} -->
<!-- fine-tunable: true -->
<!-- format: saved_model_2 -->
<!-- license: {WEIGHTS_LICENCE.lower()} -->

## Overview

{spec.preset.name} is a ResNet of depth {depth} with pre-activation, Group Normalization and \
Weight Standardization. Its weights are those of `{spec.preset.filename}`; the module was loaded \
back and compared with the model before it got its name."""


def _facts(spec: Spec, weights_sha256: str, labelled: bool) -> str:
    gmacs = spec.preset.architecture.gmacs()
    rows = [
        ("input", "float32 [B, H, W, 3], RGB in [0, 1] (rescaled inside)"),
        ("sizes", "any batch, height and width; trained or tested at "
         f"{spec.image_size} × {spec.image_size} pixels"),
        ("output", outputs(spec)),
        ("call", "`module(inputs, training=False)`, the reusable SavedModel interface: "
         "`variables`, `trainable_variables`, `regularization_losses` (none); no signatures"),
        ("trainable", "yes, all weights; `hub.KerasLayer` freezes them without `trainable=True`"),
        ("parameters", f"{parameters(spec):,}"),
        ("cost", f"{gmacs:.2f} GMACs, {2 * gmacs:.2f} GFLOPs, of the convolutions for one image of "
         "224 × 224"),
        ("computes in", "float32"),
        ("weights", f"`{spec.preset.filename}`, SHA-256 `{weights_sha256}`"),
    ]  # fmt: skip
    if spec.num_classes is not None:
        names = "`assets/labels.txt`, one a line" if labelled else "not in the module"
        rows.insert(3, ("class names", names))
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows)])


def _accuracy(spec: Spec) -> str:
    if not spec.figures:
        return (
            "## Accuracy\n\nNo figure is stated, because none was measured with this module. What "
            "it is worth on your images, `bit-keras finetune --data folder:photos --model "
            f"{spec.preset.name} --output runs/photos` says."
        )
    rows = [f"| {f.measure} | {f.value} | {f.source} |" for f in spec.figures]
    return "\n".join(["## Accuracy", "", "| what | value | from |", "|---|---|---|", *rows])


def _use(spec: Spec) -> str:
    head = ""
    if spec.num_classes is None:
        head = "\n    keras.layers.Dense(10, kernel_initializer='zeros'),  # a head for 10 classes"
    old_head = head.replace("keras.", "tf_keras.")
    return f"""## Example use

`{HUB}` is the address or the folder that holds the modules.

With `hub.KerasLayer`, a Keras 2 layer:

```python
import tensorflow_hub as hub
import tf_keras

model = tf_keras.Sequential([
    tf_keras.layers.InputLayer((None, None, 3)),  # in [0, 1]
    hub.KerasLayer("{HUB}/{spec.handle}", trainable=True),{old_head}
])
```

With Keras 3; the archive is checked against its SHA-256:

```python
import bit_keras
import keras

model = keras.Sequential([
    keras.Input((None, None, 3)),  # in [0, 1]
    bit_keras.load_module("{HUB}/{spec.handle}"),{head}
])
```"""


def _serving(spec: Spec) -> str:
    if spec.serving is None:
        return ""
    base, _, version = spec.serving.rpartition("/")
    name = base.split("/")[1]
    size = spec.image_size
    return f"""## Serving

`{spec.serving}` is the same network with folded kernels, for TensorFlow Serving. Signatures:
`serving_default(images: float32 [B, H, W, 3] in [0, 1])` and
`serving_bytes(image_bytes: string [B])`, which decodes JPEG, PNG, GIF and BMP and resizes to
{size} × {size}. Both return float32 `logits` and `probabilities` [B, {spec.num_classes}] and
`features` [B, {spec.preset.architecture.features}].

```shell
mkdir -p {name}/{version}
curl -L "{HUB}/{spec.serving}.tar.gz" | tar -xz -C {name}/{version}
docker run -p 8501:8501 -v "$PWD/{name}:/models/{name}" -e MODEL_NAME={name} tensorflow/serving
```"""
