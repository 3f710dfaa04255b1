"""One version of a model in memory: its signatures, checked and computed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from bit_keras.serving.errors import (
    InvalidArgumentError,
    NotFoundError,
    OverloadedError,
    ServingError,
)
from bit_keras.serving.tensors import array_of
from bit_keras.serving.warmup import read_warmup

Arrays = dict[str, np.ndarray]
DEFAULT_SIGNATURE = "serving_default"


class Signature:
    """One function of a module, from arrays to arrays, batched along their first dimension.

    Attributes:
        name: of the signature.
        inputs: name → tf.TensorSpec.
    """

    def __init__(self, name: str, function: Any) -> None:
        self.name = name
        self.inputs: Mapping[str, tf.TensorSpec] = function.structured_input_signature[1]
        self._function = function

    def check(self, inputs: Arrays) -> None:
        """Raises InvalidArgumentError unless these are arrays for this signature, of one batch."""
        if inputs.keys() != self.inputs.keys():
            raise InvalidArgumentError(
                f"The inputs of signature {self.name!r} are {', '.join(sorted(self.inputs))}. "
                f"Received: {', '.join(sorted(inputs)) or 'none'}"
            )
        for name, spec in self.inputs.items():
            array = inputs[name]
            dtype = "string" if array.dtype == object else array.dtype.name
            if dtype != spec.dtype.name:
                raise InvalidArgumentError(
                    f"Input {name!r} must be {spec.dtype.name}. Received: {dtype}"
                )
            if not spec.shape.is_compatible_with(array.shape) or 0 in array.shape:
                raise InvalidArgumentError(
                    f"Input {name!r} must have the shape {spec.shape}, nothing of it empty. "
                    f"Received: {array.shape}"
                )
        if len({len(array) for array in inputs.values()}) > 1:
            raise InvalidArgumentError("The inputs have different numbers of examples.")

    def run(self, inputs: Arrays) -> Arrays:
        """Computes the outputs.

        Raises:
            InvalidArgumentError: when the module refuses them, such as bytes that are no image.
            OverloadedError: when memory ran out.
            ServingError: for any other failure in the module.
        """
        try:
            outputs = self._function(**{name: tf.constant(x) for name, x in inputs.items()})
            return {name: value.numpy() for name, value in outputs.items()}
        except tf.errors.InvalidArgumentError as error:
            raise InvalidArgumentError(_reason(error)) from error
        except tf.errors.ResourceExhaustedError as error:
            raise OverloadedError(_reason(error)) from error
        except Exception as error:
            raise ServingError(f"{type(error).__name__}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """TensorFlow's message without the places in the graph that it lists around it."""
    lines = re.split(r"\s*\[\[", str(getattr(error, "message", error)))[0].strip().splitlines()
    told = re.sub(r"^assertion failed: \[(.*?)\]", r"\1", lines[-1] if lines else "")
    return told or type(error).__name__


class Servable:
    """A loaded version, warmed up.

    Args:
        folder: of the SavedModel.

    Attributes:
        signature_defs: name → SignatureDef, as in the file.

    Raises:
        OSError: when there is no SavedModel.
        ServingError: when a warm-up request fails.
        Exception: whatever TensorFlow raises for a damaged one.
    """

    def __init__(self, folder: Path) -> None:
        from tensorflow.core.protobuf import saved_model_pb2

        self._module = tf.saved_model.load(str(folder))
        self._signatures = {
            name: Signature(name, function) for name, function in self._module.signatures.items()
        }
        saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
        self.signature_defs = dict(saved.meta_graphs[0].signature_def)
        for request in read_warmup(folder):
            signature = self.signature(request.model_spec.signature_name)
            inputs = {name: array_of(tensor) for name, tensor in request.inputs.items()}
            signature.check(inputs)
            signature.run(inputs)

    def signature(self, name: str = "") -> Signature:
        """The signature of this name, "" for serving_default.

        Raises:
            InvalidArgumentError: when there is none, as in TensorFlow Serving.
        """
        found = self._signatures.get(name or DEFAULT_SIGNATURE)
        if found is None:
            raise InvalidArgumentError(
                f'Serving signature name: "{name or DEFAULT_SIGNATURE}" not found in signature def '
                f"(there are: {', '.join(sorted(self._signatures))})"
            )
        return found


def missing(name: str, version: int | None = None) -> NotFoundError:
    """The error for a model or version that is not served, in TensorFlow Serving's words."""
    which = f"Latest({name})" if version is None else f"Specific({name}, {version})"
    return NotFoundError(f"Servable not found for request: {which}")
