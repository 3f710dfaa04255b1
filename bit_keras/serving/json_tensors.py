"""The JSON of TensorFlow Serving's REST interface, from and to arrays.

Source: https://www.tensorflow.org/tfx/serving/api_rest; tensorflow_serving/util/json_tensor.cc.
"""

from __future__ import annotations

import base64
import binascii
import json
import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from bit_keras.serving.errors import InvalidArgumentError
from bit_keras.serving.servable import Arrays, Signature


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object of a request body.

    Raises:
        InvalidArgumentError: when it is none, or has not one of 'instances' and 'inputs'.
    """
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"JSON Parse error: {error}") from error
    if not isinstance(request, dict):
        raise InvalidArgumentError(f"JSON Value: {_shown(request)} Is not object")
    if not isinstance(request.get("signature_name", ""), str):
        raise InvalidArgumentError("'signature_name' key must be a string value.")
    if ("instances" in request) == ("inputs" in request):
        found = "only one of" if "inputs" in request else "Missing"
        raise InvalidArgumentError(
            f"{found.capitalize()} 'inputs' or 'instances' key"
            + (" may be given" if "inputs" in request else "")
        )
    return request


def arrays_of(request: Mapping[str, Any], signature: Signature) -> Arrays:
    """The inputs of a parsed request, in row ('instances') or column format ('inputs').

    Raises:
        InvalidArgumentError: for names, types or shapes that do not fit.
    """
    columns = _columns(request, signature) if "inputs" in request else _rows(request, signature)
    if columns.keys() != signature.inputs.keys():
        raise InvalidArgumentError(
            f"JSON object: keys must be equal to: {','.join(sorted(signature.inputs))}. "
            f"Received: {','.join(sorted(columns))}"
        )
    return {
        name: _array(name, value, signature.inputs[name].dtype.name)
        for name, value in columns.items()
    }


def _columns(request: Mapping[str, Any], signature: Signature) -> dict[str, Any]:
    value = request["inputs"]
    if isinstance(value, dict) and not _is_base64(value):
        return value
    return {_only_input(signature): value}


def _rows(request: Mapping[str, Any], signature: Signature) -> dict[str, Any]:
    rows = request["instances"]
    if not isinstance(rows, list) or not rows:
        raise InvalidArgumentError("Expecting 'instances' to be a list with at least one value")
    named = [isinstance(row, dict) and not _is_base64(row) for row in rows]
    if not any(named):
        return {_only_input(signature): rows}
    for i, row in enumerate(rows):
        if not named[i] or row.keys() != rows[0].keys():
            raise InvalidArgumentError(
                f"Failed to process element: {i} of 'instances' list. All must be objects with the "
                f"keys {','.join(sorted(signature.inputs))}"
            )
    return {name: [row[name] for row in rows] for name in rows[0]}


def _only_input(signature: Signature) -> str:
    if len(signature.inputs) > 1:
        raise InvalidArgumentError(
            "A plain value or list, but expecting an object for the inputs "
            f"{','.join(sorted(signature.inputs))}"
        )
    return next(iter(signature.inputs))


def _array(name: str, value: Any, dtype: str) -> np.ndarray:
    if dtype == "string":
        return np.array(_bytes(name, value), object)
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError) as error:  # rows of different lengths; too deep
        raise InvalidArgumentError(
            f"{name}: lists of different sizes in one tensor. Images of different sizes go in "
            "separate requests."
        ) from error
    allowed = {"f": "iuf", "i": "iu", "u": "iu", "b": "b"}.get(np.dtype(dtype).kind, "")
    if array.dtype.kind not in allowed:
        raise InvalidArgumentError(f"{name}: JSON Value: {_shown(value)} is not of type: {dtype}")
    with np.errstate(over="ignore"):
        converted = array.astype(dtype)
    lost = (
        converted != array if array.dtype.kind in "iu" else np.isinf(converted) & ~np.isinf(array)
    )
    if array.dtype.kind in "iuf" and np.any(lost):
        raise InvalidArgumentError(f"{name}: a value cannot be converted to {dtype} without loss.")
    return converted


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def _bytes(name: str, value: Any) -> Any:
    """Nested lists of bytes, from text and from {"b64": ...}."""
    if isinstance(value, list):
        return [_bytes(name, inner) for inner in value]
    if isinstance(value, str):
        return value.encode()
    if not _is_base64(value):
        raise InvalidArgumentError(
            f'{name}: JSON Value: {_shown(value)} is not text, nor {{"b64": "..."}}'
        )
    text = "".join(value["b64"].split())
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidArgumentError(f"{name}: Unable to base64 decode: {error}") from error


def _shown(value: Any) -> str:
    return reprlib.repr(value)  # whatever its size


def render(outputs: Arrays, *, rows: bool) -> bytes:
    """The answer's body: 'predictions', one for each instance, or 'outputs', one for each name."""
    plain = {name: _plain(name, array) for name, array in outputs.items()}
    only = next(iter(plain.values())) if len(plain) == 1 else None
    if not rows:
        return json.dumps({"outputs": plain if only is None else only}).encode()
    if only is None:
        only = [dict(zip(plain, row, strict=True)) for row in zip(*plain.values(), strict=True)]
    return json.dumps({"predictions": only}).encode()


def _plain(name: str, array: np.ndarray) -> Any:
    if array.dtype.kind not in "OS":
        return array.tolist()

    def text(value: Any) -> Any:
        if isinstance(value, list):
            return [text(inner) for inner in value]
        if name.endswith("_bytes"):
            return {"b64": base64.b64encode(value).decode()}
        return value.decode("utf-8", "replace")

    return text(array.tolist())
