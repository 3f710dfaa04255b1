"""The manifest.json beside record shards: what they hold, and how to know that they are whole."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

NAME = "manifest.json"
PROGRESS_NAME = "manifest.partial.jsonl"  # while the shards are being written
FORMAT = "bit_keras records 1"


@dataclass(frozen=True)
class Shard:
    """One file of records.

    Attributes:
        file: its name in the folder of the manifest.
        split: the split it belongs to.
        examples: how many records it has.
        bytes: its size.
        sha256: its checksum, hexadecimal.
    """

    file: str
    split: str
    examples: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a folder of shards holds.

    Attributes:
        shards: all files, by split and number.
        class_names: the names of the labels 0, 1, …
        class_counts: split → examples of each class.
        multi_label: whether an example may have any number of labels, or has exactly one.
        settings: what the shards were written from and with: source, seed, numbers of shards, …
        skipped: name → reason of the files that were left out.
        tool: name and version of the program that wrote it.
    """

    shards: tuple[Shard, ...]
    class_names: tuple[str, ...]
    class_counts: dict[str, list[int]]
    multi_label: bool
    settings: dict[str, Any]
    skipped: dict[str, str]
    tool: str

    @property
    def splits(self) -> dict[str, int]:
        """Name of the split → number of examples."""
        counts: dict[str, int] = {}
        for shard in self.shards:
            counts[shard.split] = counts.get(shard.split, 0) + shard.examples
        return counts

    def to_json(self) -> str:
        """The text of manifest.json; the same manifest gives the same text."""
        fields = {"format": FORMAT, "splits": self.splits, **dataclasses.asdict(self)}
        return json.dumps(fields, indent=1, ensure_ascii=False) + "\n"


def join(directory: str, name: str) -> str:
    """The path of a file of a folder, local or gs://."""
    return f"{directory.rstrip('/')}/{name}" if directory else name


def read_manifest(directory: str) -> Manifest | None:
    """The manifest of a folder of shards, local or gs://; None when it has none.

    Raises:
        ValueError: for a manifest that cannot be used, and for a folder whose shards are still
            being written, or whose writing was interrupted.
    """
    path = join(directory, NAME)
    if not tf.io.gfile.exists(path):
        if tf.io.gfile.exists(join(directory, PROGRESS_NAME)):
            raise ValueError(
                f"The shards in {directory} are not all written. Run the `bit-keras data` command "
                "that was interrupted once more: it goes on where it stopped"
            )
        return None
    with tf.io.gfile.GFile(path) as file:
        text = file.read()
    try:
        fields = json.loads(text)
        if fields.pop("format", None) != FORMAT:
            raise ValueError(f"its `format` is not {FORMAT!r}")
        shards = tuple(Shard(**shard) for shard in fields.pop("shards"))
        names = tuple(fields.pop("class_names"))
        del fields["splits"]  # follows from the shards
        return Manifest(shards=shards, class_names=names, **fields)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a manifest of `bit-keras data`: {error}. Move it away to read the "
            "shards without it"
        ) from error
