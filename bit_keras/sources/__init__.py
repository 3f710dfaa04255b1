"""Data by name: `tfds:NAME`, `folder:PATH`, `npz:PATH`, `tfrecord:GLOB` or `embedded:NAME`."""

from __future__ import annotations

from pathlib import Path

from bit_keras.sources.base import Source as Source
from bit_keras.sources.splits import few_shot_indices as few_shot_indices
from bit_keras.sources.splits import stratified_split as stratified_split

ASSETS = Path(__file__).parent.parent / "assets"

ACCEPTED = """\
  tfds:NAME[/config]  a data set of TensorFlow Datasets, for example tfds:cifar10
  folder:PATH         class sub-folders, or train/, val/ and test/ with class sub-folders
  npz:PATH            arrays x_train, y_train, x_test, y_test, or images and labels
  tfrecord:GLOB       shards of tf.train.Example, or their folder, local or gs://BUCKET/…
  embedded:NAME       a data set that comes with the package"""


def load_source(spec: str, *, seed: int = 0, strict: bool = False) -> Source:
    """Opens a data set by name. Nothing is decoded yet.

    Args:
        spec: kind and name.

            tfds:NAME[/config]  a data set of TensorFlow Datasets, for example tfds:cifar10
            folder:PATH         class sub-folders, or train/, val/ and test/ with class sub-folders
            npz:PATH            arrays x_train, y_train, x_test, y_test, or images and labels
            tfrecord:GLOB       shards of tf.train.Example, or their folder, local or gs://BUCKET/…
            embedded:NAME       a data set that comes with the package

        seed: of the stratified split into train (80 %) and test, where the data has none.
        strict: raise on the first file that cannot be used, instead of skipping it.

    Returns:
        A `Source`.

    Raises:
        ValueError: for another kind or an unknown name (the error lists what is accepted), and for
            data that is not as described above.
        FileNotFoundError: when there is nothing at PATH, or no file matches GLOB.
        ImageError: with `strict`, naming the file.
        ConnectionError: when a TFDS data set is not on this machine and cannot be downloaded.

    Example:
        >>> load_source("embedded:openclipart-mini").splits  # doctest: +SKIP
        {'train': 526, 'test': 173}
    """
    kind, _, name = spec.partition(":")
    if not name or kind not in ("tfds", "folder", "npz", "tfrecord", "embedded"):
        raise ValueError(f"Unknown data set. Received: {spec!r}. Accepted:\n{ACCEPTED}")
    if kind == "tfds":  # imported late: TFDS takes seconds
        from bit_keras.sources.catalog import CatalogSource

        return CatalogSource(name, strict=strict)
    if kind == "npz":
        from bit_keras.sources.npz import NpzSource

        return NpzSource(name, seed=seed, strict=strict)
    if kind == "tfrecord":
        from bit_keras.sources.records import RecordSource

        return RecordSource(name, strict=strict)
    from bit_keras.sources.folder import FolderSource

    if kind == "folder":
        return FolderSource(name, seed=seed, strict=strict)
    embedded = sorted(path.parent.name for path in ASSETS.glob("*/train"))
    if name not in embedded:
        raise ValueError(
            f"No data set of that name comes with the package. Received: {spec!r}. "
            f"Accepted: {', '.join(f'embedded:{e}' for e in embedded) or 'none in this build'}"
        )
    return FolderSource(ASSETS / name, name=spec, seed=seed, strict=strict)
