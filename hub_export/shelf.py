"""The folder of built modules: where each file lies, what is complete, and the manifest."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bit_keras.files import replacing
from hub_export.archive import checksum_holds, unpacked_equals

MANIFEST = "manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class Place:
    """Where the files of one module lie: OUT/HANDLE/, .tar.gz, .tar.gz.sha256 and .md.

    Attributes:
        folder: the SavedModel; the others stand beside it.
    """

    folder: Path

    @classmethod
    def of(cls, root: Path, handle: str) -> Place:
        """The place of a handle such as "bit/m-r50x1/1"."""
        return cls(root.joinpath(*handle.split("/")))

    def _beside(self, ending: str) -> Path:
        return self.folder.with_name(self.folder.name + ending)

    @property
    def archive(self) -> Path:
        """The SavedModel as a .tar.gz."""
        return self._beside(".tar.gz")

    @property
    def checksum(self) -> Path:
        """SHA-256 of the archive."""
        return self._beside(".tar.gz.sha256")

    @property
    def card(self) -> Path:
        """The module card; a serving module has none of its own."""
        return self._beside(".md")

    @property
    def settings(self) -> list[Path]:
        """TensorFlow Serving's settings beside a serving module: models.config, batching.config."""
        return sorted(self.folder.parent.glob("*.config"))

    def whole(self) -> bool:
        """Whether folder, archive and checksum are there and agree."""
        files = self.archive.is_file() and self.checksum.is_file()
        return (
            files
            and (self.folder / "saved_model.pb").is_file()
            and checksum_holds(self.archive, self.checksum)
            and unpacked_equals(self.archive, self.folder)
        )

    def take(self, other: Place) -> None:
        """Moves the files of another place, on the same file system, to this one."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        if self.folder.exists():
            shutil.rmtree(self.folder)
        os.replace(other.folder, self.folder)
        os.replace(other.archive, self.archive)
        os.replace(other.checksum, self.checksum)
        for path in other.settings:
            own = self.folder.parent / path.name
            if not own.exists():  # may have been changed since
                os.replace(path, own)


def read_manifest(root: Path) -> dict[str, dict[str, Any]]:
    """Handle → what the manifest says of the module; empty when there is none.

    Raises:
        ValueError: for a file that is no manifest of this version.
    """
    path = root / MANIFEST
    try:
        content = json.loads(path.read_text())
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}")
        return {module["handle"]: module for module in content["modules"]}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no manifest of format {FORMAT} ({error}). Build the modules into an empty "
            "folder: python -m hub_export.build --weights DIR --out NEW"
        ) from error


def write_manifest(root: Path, modules: dict[str, dict[str, Any]]) -> None:
    """Writes the manifest: the same modules give the same bytes."""
    content = {"format": FORMAT, "modules": [modules[handle] for handle in sorted(modules)]}
    with replacing(root / MANIFEST) as partial:
        partial.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
