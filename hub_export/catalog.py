"""What can be published, as tables: every module's handle, weights and facts; no TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bit_keras.presets import PRESETS, Preset
from bit_keras.pretrained import BUNDLED

VERSION = "1"
WEIGHTS_LICENCE = "Apache-2.0"


@dataclass(frozen=True)
class Figure:
    """A measured number, with how it came about."""

    measure: str
    value: str
    source: str


@dataclass(frozen=True)
class Upstream:
    """What the modules of one row of the zoo (S, M, M-…-ILSVRC2012, XS) have in common.

    Attributes:
        dataset: tag of the data set, as in TF-Hub's pages.
        head: last part of the handle of the classification module.
        training: the data and how it was trained on, a sentence or two.
        data_licence: terms of the data.
        limitations: what not to expect.
        labels: file of class names, one a line, looked for beside the weights.
        image_size: side in pixels that images were trained at, or tested at.
        multi_label: probabilities by sigmoid.
        has_features: whether the feature module is made of this file.
    """

    dataset: str
    head: str
    training: str
    data_licence: str
    limitations: tuple[str, ...]
    labels: str
    image_size: int
    multi_label: bool = False
    has_features: bool = True


_PAPER = "Kolesnikov et al. 2020, arXiv 1912.11370v3"
_WEB = (
    "Photographs from the web, labelled by people, mostly of the western world: classes, places "
    "and faces are unevenly represented, and mistakes of the labels are learned with the rest.",
    "Not evaluated for decisions about people, nor for medical, safety or legal use.",
    "A class is always answered, also for an image that shows none of the classes.",
)
_IMAGENET = "ImageNet's images belong to their owners; its terms allow non-commercial research."
UPSTREAM: dict[str, Upstream] = {
    "S": Upstream(
        "imagenet-ilsvrc-2012-cls", "ilsvrc2012_classification",
        "Pre-trained by the authors of BiT on ILSVRC-2012: 1,281,167 images of 1,000 classes, "
        f"90 epochs, 224 × 224 pixels ({_PAPER}, section 3.3).",
        _IMAGENET, _WEB, "ilsvrc2012_wordnet_lemmas.txt", 224,
    ),
    "M": Upstream(
        "imagenet-21k", "imagenet21k_classification",
        "Pre-trained by the authors of BiT on ImageNet-21k: 14.2 million images of 21,843 classes, "
        f"several an image, 90 epochs, 224 × 224 pixels ({_PAPER}, section 3.3).",
        _IMAGENET, _WEB, "imagenet21k_wordnet_lemmas.txt", 224, multi_label=True,
    ),
    "M-ILSVRC2012": Upstream(
        "imagenet-ilsvrc-2012-cls", "ilsvrc2012_classification",
        "Pre-trained by the authors of BiT on ImageNet-21k (14.2 million images), then fine-tuned "
        f"by the BiT-HyperRule on ILSVRC-2012 (1,281,167 images of 1,000 classes; {_PAPER}).",
        _IMAGENET, _WEB, "ilsvrc2012_wordnet_lemmas.txt", 384, has_features=False,
    ),
    "XS": Upstream(
        "clipart", "clipart_classification",
        "Pre-trained with `bit-keras pretrain --data tfds:clipart --exclude docs/xs/exclude.txt "
        "--model BiT-XS-R26x0.5 --output runs/xs`: 7,473 clip arts and emoji, 109 folders and 27 "
        "categories above them as classes, 90 epochs, 64 × 64 pixels. Settings, every step's "
        "record and the report are in docs/xs/.",
        "openclipart-png: public domain; emoji-datasource-google (Noto): Apache-2.0. Neither is "
        "contained in the weights.",
        (
            "Drawings on plain ground, few photographs. On photographs, take BiT-S or BiT-M.",
            "On MNIST and Fashion-MNIST, fine-tuning it by the rule was no better than training "
            "from scratch (docs/transfer.md).",
            "Small: for laptops, tests, teaching and quickstarts, not for accuracy at any price.",
            "Classes are the folders of a clip art collection and the categories of emoji: uneven, "
            "overlapping, some about style more than subject, with the bias of who drew what.",
        ),
        "BiT-XS-R26x0.5.txt", 64, multi_label=True,
    ),
}  # fmt: skip

_XS_RUN = (
    "the evaluation at the end of the command below, with the weights as float16, as in the file "
    "(bit_keras/assets/weights/BiT-XS-R26x0.5.md)"
)
_XS = "bit/xs-r26x0.5"
_TRANSFER = "median of 5 seeds: docs/transfer.md, with its command"
# Only what was measured, or published by the authors; a module without a row says so.
FIGURES: dict[str, tuple[Figure, ...]] = {
    f"{_XS}/{VERSION}": (
        Figure("top-1 of 173 images, 8 classes (embedded:openclipart-mini), fine-tuned by the rule",
               "67.6 %", _TRANSFER),
        Figure("the same, a linear classifier on frozen features", "64.2 %", _TRANSFER),
        Figure("the same, from scratch by the same rule", "48.6 %", _TRANSFER),
        Figure("top-1 of 209 images, 6 classes (tfds:stamps, 5-fold), fine-tuned by the rule",
               "65.6 %", _TRANSFER),
        Figure("the same, a linear classifier on frozen features", "64.1 %", _TRANSFER),
        Figure("the same, from scratch by the same rule", "51.2 %", _TRANSFER),
    ),
    f"{_XS}/clipart_classification/{VERSION}": (
        Figure("581 held-out images: the best class is one of the image's", "72.3 %", _XS_RUN),
        Figure("one of the best five is", "84.2 %", _XS_RUN),
        Figure("label precision: of an image's n classes, those among the n best", "65.0 %",
               _XS_RUN),
    ),
    f"bit/m-r152x4/ilsvrc2012_classification/{VERSION}": (
        Figure("top-1 on ILSVRC-2012, 480 × 480 pixels", "85.39 %",
               f"published by the authors ({_PAPER}), not measured with this module"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Spec:
    """One module to publish.

    Attributes:
        handle: "bit/m-r50x1/1" or "bit/m-r50x1/imagenet21k_classification/1".
        preset: the row of the zoo whose file it is made of.
        upstream: facts of that row.
        num_classes: size of the file's head, or None for features.
    """

    handle: str
    preset: Preset
    upstream: Upstream
    num_classes: int | None

    @property
    def serving(self) -> str | None:
        """Handle of the serving module: TensorFlow Serving's base path and a version."""
        return self.handle.replace("bit/", "serving/", 1) if self.num_classes else None

    @property
    def image_size(self) -> int:
        """Side in pixels that serving_bytes resizes to; R152x4 takes 480 (paper, section 3.3)."""
        size = self.upstream.image_size
        return 480 if size == 384 and str(self.preset.architecture) == "R152x4" else size

    @property
    def figures(self) -> tuple[Figure, ...]:
        """What is known of its accuracy."""
        return FIGURES.get(self.handle, ())

    def labels(self, weights: Path) -> Path | None:
        """The file of class names, if it is in the folder of weights or comes with the package."""
        if self.num_classes is None:
            return None
        places = (weights / self.upstream.labels, BUNDLED / self.upstream.labels)
        return next((path for path in places if path.is_file()), None)


def _row(preset: Preset) -> str:
    size = preset.name.split("-")[1]
    return f"{size}-ILSVRC2012" if preset.name.endswith("-ILSVRC2012") else size


def catalog() -> list[Spec]:
    """All modules whose weights exist somewhere, in the order of the zoo.

    Example:
        >>> [spec.handle for spec in catalog() if spec.preset.bundled]
        ['bit/xs-r26x0.5/1', 'bit/xs-r26x0.5/clipart_classification/1']
    """
    specs = []
    for preset in PRESETS.values():
        if preset.filename is None:
            continue
        upstream = UPSTREAM[_row(preset)]
        base = f"bit/{preset.name.split('-')[1]}-{preset.architecture}".lower()
        if upstream.has_features:
            specs.append(Spec(f"{base}/{VERSION}", preset, upstream, None))
        handle = f"{base}/{upstream.head}/{VERSION}"
        specs.append(Spec(handle, preset, upstream, preset.num_classes))
    return specs


def available(weights: Path) -> list[tuple[Spec, Path]]:
    """The modules whose weights are in a folder or in the package, with the weights' paths."""
    found = []
    for spec in catalog():
        for folder in (weights, BUNDLED):
            path = folder / str(spec.preset.filename)
            if path.is_file():
                found.append((spec, path))
                break
    return found
