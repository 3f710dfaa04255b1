"""The model zoo as a table: every architecture and every released model, without TensorFlow.

Sources: Kolesnikov et al. 2020, "Big Transfer (BiT)", arXiv 1912.11370v3, and the reference code
google-research/big_transfer.
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass

# Units per block for each depth (reference: `bit_tf2/models.py`). R26 is ours, for laptops.
UNITS: dict[int, tuple[int, int, int, int]] = {
    26: (2, 2, 2, 2),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
BLOCK_STRIDES = (1, 2, 2, 2)
BASE_FILTERS = 64
GROUPS = 32  # paper, section 3.2: GroupNorm with 32 groups everywhere
BASE_URL = "https://storage.googleapis.com/bit_models"


@dataclass(frozen=True)
class Architecture:
    """A BiT ResNetV2 by depth and width, e.g. `Architecture(50, 3)` for R50x3.

    Attributes:
        depth: number of layers, one of 26, 50, 101, 152.
        width: factor on the number of filters; fractions are allowed.

    Example:
        >>> Architecture(50, 1).parameters(num_classes=1000)
        25549352
    """

    depth: int
    width: float = 1

    def __post_init__(self) -> None:
        if self.depth not in UNITS:
            raise ValueError(
                f"There is no BiT ResNetV2 of depth {self.depth!r}. Use one of {sorted(UNITS)}."
            )
        if not self.width > 0 or round(BASE_FILTERS * self.width) < 1:
            raise ValueError(
                f"`width` must be a positive factor such as 0.5, 1 or 3. Received: {self.width!r}"
            )

    def __str__(self) -> str:
        return f"R{self.depth}x{self.width:g}"

    @property
    def units(self) -> tuple[int, int, int, int]:
        """Units in each of the four blocks."""
        return UNITS[self.depth]

    @property
    def root_filters(self) -> int:
        """Filters of the 7×7 root convolution."""
        return round(BASE_FILTERS * self.width)

    def block_filters(self, block: int) -> int:
        """Bottleneck filters m of block 1…4; the block's output has 4m channels."""
        return self.root_filters * 2 ** (block - 1)

    @property
    def groups(self) -> int:
        """Groups of every GroupNormalization: 32, as in the paper.

        Only widths that are no multiple of ½, which the paper does not have, get fewer: the
        largest power of two up to 32 that divides every layer's channels.
        """
        return math.gcd(GROUPS, self.root_filters)

    @property
    def features(self) -> int:
        """Length of the feature vector before the head, 2048 × width."""
        return 4 * self.block_filters(4)

    def _convolutions(self) -> list[tuple[int, int, int, int]]:
        """All convolutions as (kernel side, channels in, channels out, log2 of the stride)."""
        convs = [(7, 3, self.root_filters, 1)]
        channels, halvings = self.root_filters, 2  # the root halves the sides twice
        for block, (units, stride) in enumerate(zip(self.units, BLOCK_STRIDES, strict=True), 1):
            m = self.block_filters(block)
            for unit in range(units):
                before = halvings
                if unit == 0:
                    halvings += stride // 2
                    convs.append((1, channels, 4 * m, halvings))
                convs += [(1, channels, m, before), (3, m, m, halvings), (1, m, 4 * m, halvings)]
                channels = 4 * m
        return convs

    def parameters(self, num_classes: int | None = None) -> int:
        """Number of parameters, with a head of `num_classes` or, for None, without a head."""
        kernels = sum(k * k * i * o for k, i, o, _ in self._convolutions())
        # Every convolution but the root and the four projections has a norm over its input.
        normed = sum(i for k, i, _, _ in self._convolutions() if k != 7)
        projections = [self.root_filters] + [4 * self.block_filters(b) for b in (1, 2, 3)]
        norms = 2 * (normed - sum(projections) + self.features)
        head = (self.features + 1) * num_classes if num_classes else 0
        return kernels + norms + head

    def activations(self, size: int = 224) -> int:
        """Elements of all convolutions' outputs for one image of `size` × `size` pixels."""
        return sum(
            o * math.ceil(size / 2**halvings) ** 2 for _, _, o, halvings in self._convolutions()
        )

    def gmacs(self, size: int = 224) -> float:
        """10⁹ multiply-adds of the convolutions for one image of `size` × `size` pixels.

        Counters that also count normalisation and the standardisation of the kernels, which a
        serving module does beforehand, say a little more: 4.23 instead of 4.09 for R50x1.
        """
        macs = sum(
            k * k * i * o * math.ceil(size / 2**halvings) ** 2
            for k, i, o, halvings in self._convolutions()
        )
        return macs / 1e9


@dataclass(frozen=True)
class Preset:
    """One model of the zoo.

    Attributes:
        name: e.g. `BiT-M-R50x1`.
        architecture: its depth and width.
        upstream: the data it was pre-trained on.
        num_classes: outputs of the head that the released file holds.
        filename: the npz file, or None when there is none.
        unavailable: why there is no file; empty when there is one.
        bundled: whether the file comes with this package.
    """

    name: str
    architecture: Architecture
    upstream: str
    num_classes: int
    filename: str | None = None
    unavailable: str = ""
    bundled: bool = False

    @property
    def url(self) -> str | None:
        """Public address of the released file, or None; a bundled one has no address."""
        return f"{BASE_URL}/{self.filename}" if self.filename and not self.bundled else None


_NEVER_RELEASED = "weights trained on JFT-300M were never released"
_ARCHITECTURES = tuple(Architecture(d, w) for d, w in
                       ((50, 1), (50, 3), (101, 1), (101, 3), (152, 2), (152, 4)))  # fmt: skip


def _zoo() -> dict[str, Preset]:
    rows = []
    for arch in _ARCHITECTURES:
        s, m = f"BiT-S-{arch}", f"BiT-M-{arch}"
        if str(arch) == "R152x2":
            rows.append(Preset(s, arch, "ILSVRC-2012", 1000, None, "never released for BiT-S"))
        else:
            rows.append(Preset(s, arch, "ILSVRC-2012", 1000, f"{s}.npz"))
        rows.append(Preset(m, arch, "ImageNet-21k", 21_843, f"{m}.npz"))
        tuned = f"{m}-ILSVRC2012"
        rows.append(Preset(tuned, arch, "ImageNet-21k, then ILSVRC-2012", 1000, f"{tuned}.npz"))
        rows.append(Preset(f"BiT-L-{arch}", arch, "JFT-300M", 18_291, None, _NEVER_RELEASED))
    xs = "BiT-XS-R26x0.5"
    rows.append(
        Preset(xs, Architecture(26, 0.5), "clipart and emoji", 136, f"{xs}.npz", bundled=True)
    )
    order = {"S": 0, "M": 1, "L": 2, "XS": 3}
    rows.sort(key=lambda p: (order[p.name.split("-")[1]], p.name.endswith("ILSVRC2012")))
    return {row.name: row for row in rows}


PRESETS: dict[str, Preset] = _zoo()


def list_presets() -> list[str]:
    """Names of all models of the zoo, those without released weights included.

    Example:
        >>> "BiT-M-R50x1" in list_presets()
        True
    """
    return list(PRESETS)


def get_preset(name: str) -> Preset:
    """The row of the zoo called `name`.

    Raises:
        ValueError: for an unknown name; the message lists the closest ones.
    """
    if name in PRESETS:
        return PRESETS[name]
    close = difflib.get_close_matches(str(name), PRESETS, n=3, cutoff=0.4) or list(PRESETS)[:3]
    raise ValueError(
        f"There is no preset {name!r}. Close names: {', '.join(close)}. "
        "`bit-keras models` or `bit_keras.list_presets()` lists them all."
    )


def parse_architecture(text: str) -> Architecture:
    """Reads an architecture from "R50x3", "BiT-M-R50x3" or "BiT-M-R50x3-ILSVRC2012".

    Raises:
        ValueError: when the text names no architecture of the table.
    """
    match = re.fullmatch(r"(?:BiT-\w+-)?R(\d+)x(\d+(?:\.\d+)?)(?:-.*)?", str(text))
    if not match:
        raise ValueError(
            f"Cannot read an architecture from {text!r}. Write it as 'R50x1' or 'BiT-M-R50x1'."
        )
    return Architecture(int(match[1]), float(match[2]))
