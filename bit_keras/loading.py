"""Published modules as Keras 3 layers: from a folder, an archive, an address or a handle."""

from __future__ import annotations

from os import PathLike, fspath
from typing import Any

import keras
import tensorflow as tf
from keras.src.saving.serialization_lib import in_safe_mode

from bit_keras.module_files import ChecksumError as ChecksumError
from bit_keras.module_files import ModuleUnavailableError as ModuleUnavailableError
from bit_keras.module_files import find_module
from bit_keras.unpack import ArchiveError as ArchiveError

_MEMBERS = ("variables", "trainable_variables", "regularization_losses")


@keras.saving.register_keras_serializable(package="bit_keras")
class ModuleLayer(keras.layers.Layer):
    """A published module as a Keras 3 layer; made by `bit_keras.load_module`.

    Its weights are the module's own variables, so what an optimizer, `load_weights` or
    `set_weights` does to them, the module computes with. It computes in the precision it was
    exported with, whatever the dtype policy.

    Args:
        handle: where the module comes from.
        sha256: of its archive.
        name: of the layer.
        **kwargs: of `keras.layers.Layer`.
    """

    def __init__(
        self, handle: str, sha256: str | None = None, name: str | None = None, **kwargs: Any
    ) -> None:
        kwargs.setdefault("dtype", "float32")
        super().__init__(name=name, autocast=False, **kwargs)
        found = find_module(handle, sha256)
        self.handle, self.sha256 = handle, found.sha256
        self._loaded = _load(found.folder, handle)
        trainable = {id(variable) for variable in self._loaded.trainable_variables}
        for variable in self._loaded.variables:
            self._track_variable(_adopted(variable, id(variable) in trainable))
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Images float32 [B, H, W, 3] in [0, 1] → what the module returns, float32."""
        outputs = self._loaded(tf.cast(inputs, tf.float32), training=bool(training))
        for loss in self._loaded.regularization_losses:
            self.add_loss(loss())
        return outputs

    def get_config(self) -> dict[str, Any]:
        """The handle and the checksum, with which the very same module is found again."""
        return {**super().get_config(), "handle": self.handle, "sha256": self.sha256}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ModuleLayer:
        """Loads the module again; refused in Keras' safe mode, for a module is a program."""
        # As keras.layers.TFSMLayer does.
        if in_safe_mode() is not False:
            raise ValueError(
                f"The file holds a layer that loads the module {config.get('handle')!r}, which is "
                "a program. If you trust it, load the file with safe_mode=False."
            )
        return cls(**config)


def _adopted(variable: tf.Variable, trainable: bool) -> keras.Variable:
    """A Keras variable that is the module's variable, not a copy of its value."""
    name = variable.name.split(":")[0].replace("/", ".") or "weight"
    adopted = keras.Variable(
        initializer=variable,
        trainable=trainable,
        dtype=variable.dtype.name,
        name=name,
    )
    if adopted.value is not variable:
        raise RuntimeError(
            f"Keras {keras.__version__} copies variables instead of adopting them, so the module "
            "would not learn. Please report it."
        )
    return adopted


def _load(folder: Any, handle: str) -> Any:
    try:
        loaded = tf.saved_model.load(str(folder))
    except Exception as error:  # TensorFlow raises nearly anything on damaged files
        raise ValueError(f"{handle} is no SavedModel that can be loaded: {error}") from error
    missing = [name for name in _MEMBERS if not hasattr(loaded, name)]
    if missing or not callable(loaded):
        what = ", ".join(missing) or "__call__"
        raise ValueError(
            f"{handle} is no module to build on: it has no {what}. One that serves is loaded with "
            "tf.saved_model.load and called by its signatures."
        )
    return loaded


def load_module(
    handle: str | PathLike[str],
    *,
    trainable: bool = True,
    sha256: str | None = None,
    name: str | None = None,
) -> ModuleLayer:
    """Loads a published module as a Keras 3 layer, ready to be fine-tuned by `model.fit`.

    A module is a program that TensorFlow runs: load what you trust. An archive is checked against
    its SHA-256, unpacked without links and foreign paths into the cache, and found there next time.

    Args:
        handle: one of
            a folder: "modules/photos";
            an archive with its .sha256 beside it: "1.tar.gz";
            an address: "https://HOST/bit/xs-r26x0.5/1", or that of a .tar.gz;
            a handle below $BIT_KERAS_HUB, a folder or an address: "bit/xs-r26x0.5/1".
        trainable: whether its weights are trained.
        sha256: of the archive, when it is not to be read beside it.
        name: of the layer.

    Returns:
        A layer from float32 [B, H, W, 3] in [0, 1], any height and width, to float32 features
        [B, 2048 × width] or logits [B, num_classes]. A model around it is saved by
        `model.save("x.keras")` and read with `keras.models.load_model("x.keras",
        safe_mode=False)`; the file holds the weights and the handle.

    Raises:
        FileNotFoundError: the handle is nothing of the above.
        ModuleUnavailableError: (an OSError) the server cannot be reached or has no such module.
        ChecksumError: (a ValueError) the archive is not the one expected, or has no checksum.
        ArchiveError: (a ValueError) the archive holds no module, or what is unsafe to unpack.
        ValueError: the module serves only, or TensorFlow cannot load it.

    Source: https://www.tensorflow.org/hub/reusable_saved_models, .../hub/hosting.

    Example:
        >>> layer = load_module("https://example.org/bit/xs-r26x0.5/1")  # doctest: +SKIP
        >>> model = keras.Sequential([layer, keras.layers.Dense(10)])  # doctest: +SKIP
    """
    return ModuleLayer(fspath(handle), sha256, name, trainable=trainable)
