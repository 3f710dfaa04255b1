"""Big Transfer (BiT, Kolesnikov et al. 2020) for Keras 3 on TensorFlow.

    import bit_keras

    model = bit_keras.ResNetV2.from_preset("BiT-M-R50x1", num_classes=10)
    rule = bit_keras.hyperrule(num_examples=5_000, height=32, width=32)

The tables (`list_presets`, `hyperrule`) answer without importing TensorFlow; everything else is
imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bit_keras.backend import after_keras, check_backend, load_tensorflow, quiet_tensorflow
from bit_keras.version import __version__

check_backend()
quiet_tensorflow()

if TYPE_CHECKING:
    from bit_keras.export import export_module as export_module
    from bit_keras.layers import GroupNormalization as GroupNormalization
    from bit_keras.layers import StandardizedConv2D as StandardizedConv2D
    from bit_keras.loading import load_module as load_module
    from bit_keras.optimizers import TransferSchedule as TransferSchedule
    from bit_keras.presets import list_presets as list_presets
    from bit_keras.recipes import TransferRule as TransferRule
    from bit_keras.recipes import hyperrule as hyperrule
    from bit_keras.resnet import ResNetV2 as ResNetV2
    from bit_keras.timm_weights import load_timm as load_timm
    from bit_keras.upstream import PretrainRecipe as PretrainRecipe
    from bit_keras.upstream import pretrain_recipe as pretrain_recipe
    from bit_keras.weights import load_npz as load_npz
    from bit_keras.weights import save_npz as save_npz

# Public name → the module that holds it. Resolved on first use, so that the tables stay light.
_PUBLIC = {
    "GroupNormalization": "layers",
    "PretrainRecipe": "upstream",
    "ResNetV2": "resnet",
    "StandardizedConv2D": "layers",
    "TransferRule": "recipes",
    "TransferSchedule": "optimizers",
    "export_module": "export",
    "hyperrule": "recipes",
    "list_presets": "presets",
    "load_module": "loading",
    "load_npz": "weights",
    "load_timm": "timm_weights",
    "pretrain_recipe": "upstream",
    "save_npz": "weights",
}
_TABLES = ("presets", "recipes", "upstream")  # modules without TensorFlow

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(
            f"module 'bit_keras' has no attribute {name!r}. It has: {', '.join(sorted(_PUBLIC))}"
        )
    if _PUBLIC[name] not in _TABLES:
        load_tensorflow()
    module = importlib.import_module(f"bit_keras.{_PUBLIC[name]}")
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


def _register() -> None:
    """Imports the modules whose classes Keras finds in `.keras` files."""
    for module in ("layers", "resnet", "optimizers", "loading"):
        importlib.import_module(f"bit_keras.{module}")


after_keras(_register)
