"""The versions of a model: found on disk, loaded, replaced and unloaded while the server runs.

As in TensorFlow Serving, a new version is loaded before the old one goes, and an old one stays when
the new one cannot be loaded.
"""

from __future__ import annotations

import dataclasses
import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bit_keras.serving.configs import read_model
from bit_keras.serving.errors import NotFoundError
from bit_keras.serving.servable import Servable, missing

LOADING, AVAILABLE, END = "LOADING", "AVAILABLE", "END"

_File = tuple[str, int, int]  # path, size, time of change


@dataclass(frozen=True)
class VersionStatus:
    """What has become of a version.

    Attributes:
        state: LOADING, AVAILABLE or END.
        error: why it could not be loaded; "" if it could.
    """

    state: str
    error: str = ""


def present_versions(base_path: Path) -> dict[int, Path]:
    """The folders below `base_path` that are named by a number and hold a SavedModel."""
    return {
        int(folder.name): folder
        for folder in base_path.iterdir()
        if folder.name.isdecimal() and (folder / "saved_model.pb").is_file()
    }


def _files(folder: Path) -> frozenset[_File]:
    """What tells a folder from the same one before more of it was copied."""
    stats = ((path, path.stat()) for path in folder.rglob("*") if path.is_file())
    return frozenset((str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats)


class Model:
    """A model with its versions. One thread calls `poll`; any thread may ask the rest.

    Args:
        base_path: the folder of versions.
        name: of the model; "" takes that in models.config, or the folder's.
        on_change: called with the model's name, the version and its new state.

    Raises:
        ValueError: for a models.config that cannot be understood.
    """

    def __init__(
        self,
        base_path: Path,
        name: str = "",
        on_change: Callable[[str, int, str], None] = lambda name, version, state: None,
    ) -> None:
        self.base_path = base_path
        self._given_name = name
        self._config = read_model(base_path, name)
        self._on_change = on_change
        # Replaced, never changed in place: readers need no lock.
        self._loaded: dict[int, Servable] = {}
        self._statuses: dict[int, VersionStatus] = {}
        self._failed: dict[int, frozenset[_File]] = {}

    @property
    def name(self) -> str:
        """The name that requests give; it does not change while the server runs."""
        return self._config.name

    def poll(self) -> None:
        """Loads versions that have appeared, then unloads those that are not to be served."""
        self._read_config()
        try:
            present = present_versions(self.base_path)
        except OSError as error:  # a disk that is gone for a moment: go on with what is loaded
            self._tell(f"{self.base_path} cannot be read: {error}")
            return
        wanted = self._config.chosen(list(present))
        for version in wanted:
            if version not in self._loaded:
                self._load(version, present[version])
        if not wanted or set(wanted) & set(self._loaded):
            for version in set(self._loaded) - set(wanted):
                self._unload(version)

    def _read_config(self) -> None:
        try:
            config = read_model(self.base_path, self._given_name)
        except (ValueError, OSError) as error:
            self._tell(f"keeps its settings: {error}")
            return
        self._config = dataclasses.replace(config, name=self.name)

    def _load(self, version: int, folder: Path) -> None:
        """Loads a version; one that failed is tried again when its files have changed."""
        try:
            files = _files(folder)
        except OSError:  # still being copied
            return
        if self._failed.get(version) == files:
            return
        self._set(version, LOADING)
        try:
            servable = Servable(folder)
        except Exception as error:  # TensorFlow raises nearly anything on damaged files
            self._failed[version] = files
            self._set(version, END, f"{type(error).__name__}: {error}")
            self._tell(f"version {version} cannot be loaded: {error}")
            return
        self._loaded = {**self._loaded, version: servable}
        self._set(version, AVAILABLE)

    def _unload(self, version: int) -> None:
        self._loaded = {v: s for v, s in self._loaded.items() if v != version}
        self._set(version, END)
        gc.collect()  # a module is full of cycles, and may be large

    def _set(self, version: int, state: str, error: str = "") -> None:
        self._statuses = {**self._statuses, version: VersionStatus(state, error)}
        self._on_change(self.name, version, state)

    def _tell(self, what: str) -> None:
        print(f"{self.name}: {what}", file=sys.stderr, flush=True)

    @property
    def available(self) -> list[int]:
        """The versions that answer, in ascending order."""
        return sorted(self._loaded)

    def resolve(self, version: int | None = None, label: str = "") -> tuple[int, Servable]:
        """The version that a request means; without a number or label the newest.

        Raises:
            NotFoundError: when it is not served.
        """
        loaded = self._loaded
        if label:
            version = self._label(label)
        if version is None:
            if not loaded:
                raise missing(self.name)
            version = max(loaded)
        if version not in loaded:
            raise missing(self.name, version)
        return version, loaded[version]

    def statuses(self, version: int | None = None, label: str = "") -> dict[int, VersionStatus]:
        """What has become of one version, or of all there were, newest first.

        Raises:
            NotFoundError: when there never was such a version.
        """
        if label:
            version = self._label(label)
        statuses = self._statuses
        if version is None:
            return dict(sorted(statuses.items(), reverse=True))
        if version not in statuses:
            raise NotFoundError(f"Could not find version {version} of model {self.name}")
        return {version: statuses[version]}

    def _label(self, label: str) -> int:
        if label not in self._config.labels:
            raise NotFoundError(f"Unrecognized servable version label: {label}")
        return self._config.labels[label]


def find_models(
    model_dir: Path,
    name: str = "",
    on_change: Callable[[str, int, str], None] = lambda name, version, state: None,
) -> dict[str, Model]:
    """The models in a folder: of versions, of one model; else of such folders, one for each.

    Args:
        model_dir: such as runs/photos/serving, or modules/ with modules/pets/1 and more.
        name: for a single model.
        on_change: called with model, version and new state.

    Raises:
        FileNotFoundError: when there is no version of any.
        ValueError: when two have the same name, or `name` is given for several.
    """
    if not model_dir.is_dir():
        raise FileNotFoundError(f"There is no folder {model_dir}.")
    folders = [model_dir] if present_versions(model_dir) else []
    folders = folders or sorted(
        f for f in model_dir.iterdir() if f.is_dir() and present_versions(f)
    )
    if not folders:
        raise FileNotFoundError(
            f"{model_dir} holds no versions: sub-folders named 1, 2, ... with a SavedModel in "
            "each. Make one with: bit-keras export --kind serving --output MODEL_DIR/1 --model ..."
        )
    if name and len(folders) > 1:
        raise ValueError(f"{model_dir} holds {len(folders)} models, so there is no --name for one.")
    models: dict[str, Model] = {}
    for folder in folders:
        model = Model(folder, name, on_change)
        if model.name in models:
            raise ValueError(
                f"{folder} and {models[model.name].base_path} are both {model.name!r}."
            )
        models[model.name] = model
    return models
