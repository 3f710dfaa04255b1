"""`stamps`: a downstream set of photo cut-outs from Debian's tuxpaint-stamps-default (GPL-2)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from bit_keras.datasets.fetch import STAMPS, manual_commands
from bit_keras.images import decode_image

PNG_ROOT = "usr/share/tuxpaint/stamps"

# Each class is a folder with all below it. In version 2022.06.04: 38, 25, 41, 20, 67, 18 images.
CLASSES = {
    "birds": "animals/birds",
    "flowers": "plants/flowers",
    "fruit": "food/fruit",
    "insects": "animals/insects",
    "mammals": "animals/mammals",
    "vegetables": "food/vegetables",
}


class Stamps(tfds.core.GeneratorBasedBuilder):
    """Pictures of six classes, most of them photographs cut out, on white.

    209 images in one split, train: with so few, a judgement needs cross-validation. The package is
    GPL-2; it is fetched where the data set is built and is no part of bit-keras.

    Drawings among them come from the Open Clip Art Library, so that an upstream set made of it
    holds some of these very pictures. In the whole package these are 32, `pink_cake` and
    `kangaroo-silo` for two; in the six classes those under fruit/cartoon and insects/cartoon, and
    the echidna. `bit-keras data dedup` finds them.

    Features: image uint8 [height, width, 3]; label int64; name string, the file in the package.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "Initial release."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "manual_dir must hold the unpacked package. "
        "`python -m bit_keras.datasets.fetch stamps MANUAL_DIR` does it, and so do, in it:\n"
        + manual_commands("stamps")
    )

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                "label": tfds.features.ClassLabel(names=list(CLASSES)),
                "name": tfds.features.Text(),
            }
        )
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=features,
            supervised_keys=("image", "label"),
            homepage="https://tuxpaint.org/",
            license="GPL-2",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        root = Path(dl_manager.manual_dir) / STAMPS.name / PNG_ROOT
        missing = [folder for folder in CLASSES.values() if not (root / folder).is_dir()]
        if missing:
            raise FileNotFoundError(
                f"{root} must hold {', '.join(missing)}. {self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
            )
        return {"train": self._generate_examples(root)}

    def _generate_examples(self, root: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        for label, folder in CLASSES.items():
            for path in sorted((root / folder).rglob("*.png")):
                if path.is_symlink():
                    continue
                name = path.relative_to(root).as_posix()
                yield name, {"image": decode_image(path.read_bytes()), "label": label, "name": name}
