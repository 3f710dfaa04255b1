"""The two configuration files of TensorFlow Serving beside a model's versions.

`models.config` is for `--model_config_file`, `batching.config` for `--batching_parameters_file`.
Both are protocol buffers as text.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bit_keras.files import replacing

MODELS = "models.config"
BATCHING = "batching.config"

_MODELS_TEXT = """\
# For TensorFlow Serving: --model_config_file. This folder is to be mounted at base_path.
# A label is added as:  version_labels {{ key: "stable" value: 1 }}
model_config_list {{
  config {{
    name: {name}
    base_path: {base_path}
    model_platform: "tensorflow"
    model_version_policy {{ latest {{ num_versions: 1 }} }}
  }}
}}
"""


@dataclass(frozen=True)
class BatchingParameters:
    """How requests are put into batches, by TensorFlow Serving's names for it.

    Attributes:
        max_batch_size: examples computed at once.
        batch_timeout_micros: how long an incomplete batch waits for more, microseconds.
        num_batch_threads: batches computed at the same time.
        max_enqueued_batches: batches that may wait, for each signature; more are refused.

    Source: tensorflow_serving/servables/tensorflow/session_bundle_config.proto.

    Example:
        >>> BatchingParameters(max_batch_size=8).text().splitlines()[1]
        'max_batch_size { value: 8 }'
    """

    max_batch_size: int = 32
    batch_timeout_micros: int = 2000
    num_batch_threads: int = 2
    max_enqueued_batches: int = 16

    @property
    def capacity(self) -> int:
        """Examples that may wait or be computed, for each signature."""
        return self.max_batch_size * self.max_enqueued_batches

    def text(self) -> str:
        """The content of batching.config."""
        head = "# For TensorFlow Serving: --enable_batching --batching_parameters_file.\n"
        values = dataclasses.asdict(self).items()
        return head + "".join(f"{name} {{ value: {value} }}\n" for name, value in values)


def read_batching(path: Path) -> BatchingParameters:
    """Reads a batching.config; what it does not say, and a file that is not there, is the default.

    Raises:
        ValueError: for a number below 1 (a timeout below 0), or what is no such file.
    """
    if not path.is_file():
        return BatchingParameters()
    text = re.sub(r"#.*", "", path.read_text("utf-8"))
    rest = _FIELD.sub("", text).strip()
    if rest:
        raise ValueError(f"{path} has {rest.split()[0]!r} where `name {{ value: 1 }}` is expected.")
    known = {field.name for field in dataclasses.fields(BatchingParameters)}
    found = {name: value for name, value in _FIELD.findall(text) if name in known}
    for name, value in found.items():
        if not value.isdecimal() or (int(value) < 1 and name != "batch_timeout_micros"):
            raise ValueError(f"{path}: {name} must be a whole number above 0, received {value}.")
    return BatchingParameters(**{name: int(value) for name, value in found.items()})


# `name { value: 1 }`; also `name: true` and `name: [1, 2]`, of settings that mean nothing here.
_FIELD = re.compile(r"(\w+)\s*:?\s*(?:\{\s*value\s*:)?\s*(\"[^\"]*\"|\[[^]]*\]|-?\w+)\s*\}?")


def default_name(base_path: Path) -> str:
    """The name of a model without models.config: its folder's, or the run's for `RUN/serving`.

    Example:
        >>> default_name(Path("runs/photos/serving"))
        'photos'
    """
    base_path = base_path.absolute()
    return base_path.parent.name if base_path.name == "serving" else base_path.name


def write_configs(base_path: Path) -> None:
    """Writes models.config and batching.config beside the versions; one that is there stays."""
    name = default_name(base_path)
    quoted = {"name": json.dumps(name), "base_path": json.dumps(f"/models/{name}")}
    texts = {MODELS: _MODELS_TEXT.format(**quoted), BATCHING: BatchingParameters().text()}
    for file, text in texts.items():
        if not (base_path / file).exists():
            with replacing(base_path / file) as partial:
                partial.write_text(text, "utf-8")


@dataclass(frozen=True)
class ModelConfig:
    """What models.config says about a model.

    Attributes:
        name: the name it is served as.
        latest: number of newest versions to serve, unless `versions` or `all_versions` says.
        versions: the versions to serve.
        all_versions: serve all that are there.
        labels: label → version.
    """

    name: str
    latest: int = 1
    versions: tuple[int, ...] = ()
    all_versions: bool = False
    labels: dict[str, int] = dataclasses.field(default_factory=dict)

    def chosen(self, present: list[int]) -> list[int]:
        """The versions to serve, of those that are there."""
        if self.all_versions:
            return sorted(present)
        if self.versions:
            return sorted(set(present) & set(self.versions))
        return sorted(present)[-self.latest :]


def read_model(base_path: Path, name: str = "") -> ModelConfig:
    """Reads models.config, with the protos of TensorFlow Serving.

    Args:
        base_path: the folder of versions; its models.config may be missing.
        name: of the model; "" takes that in the file.

    Raises:
        ValueError: for a file that is none, or several models of which none has this name.
    """
    path = base_path / MODELS
    if not path.is_file():
        return ModelConfig(name or default_name(base_path))
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    try:
        text = path.read_text("utf-8")
        parsed: Any = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a ModelServerConfig: {error}") from error
    configs = list(parsed.model_config_list.config)
    found = [c for c in configs if c.name == name] or (configs if len(configs) == 1 else [])
    if not found:
        names = ", ".join(c.name for c in configs) or "no model"
        raise ValueError(f"{path} lists {names}. Choose one with --name.")
    policy = found[0].model_version_policy
    return ModelConfig(
        name or found[0].name,
        max(policy.latest.num_versions, 1),
        tuple(policy.specific.versions),
        policy.HasField("all"),
        dict(found[0].version_labels),
    )
