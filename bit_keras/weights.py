"""The npz layout of the released BiT files, read and written key by key.

It is the interchange format of this package: what is saved here loads in the reference code, timm
and Hugging Face transformers, and the other way round. Kernels are HWIO and raw, not standardised.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from bit_keras.files import replacing

HEAD_KERNEL = "resnet/head/conv2d/kernel"
HEAD_BIAS = "resnet/head/conv2d/bias"
_HEAD = (HEAD_KERNEL, HEAD_BIAS)
# Some released files number their scopes: `standardized_conv2d_17/kernel`.
_NUMBERED = re.compile(r"(standardized_conv2d|group_norm|conv2d)_\d+/")


class WeightsFormatError(ValueError):
    """A file that is not a BiT npz file, or not one for this model."""


def _canonical(name: str) -> str:
    return _NUMBERED.sub(r"\1/", name)


def _variables(model: Any) -> dict[str, Any]:
    """The model's variables by npz key, in the order of its layers."""
    return {
        f"resnet/{layer.name.replace('.', '/')}/{variable.name}": variable
        for layer in model.layers
        for variable in layer.weights
    }


def _file_shape(key: str, variable: Any) -> tuple[int, ...]:
    """The shape that a variable has in a file: the dense head is a 1×1 convolution there."""
    shape = tuple(variable.shape)
    return (1, 1, *shape) if key == HEAD_KERNEL else shape


def _broken(path: Path, fault: Any) -> WeightsFormatError:
    return WeightsFormatError(
        f"{path} is not a whole npz file ({path.stat().st_size:,} bytes): {fault}. If it was "
        "downloaded, delete it and download it again."
    )


def _open(path: Path) -> zipfile.ZipFile:
    if not path.is_file():
        raise FileNotFoundError(f"There is no npz file {path}. Check the path.")
    try:
        return zipfile.ZipFile(path)
    except OSError:
        raise
    except Exception as error:
        raise _broken(path, error) from error


def _parsed(archive: zipfile.ZipFile, path: Path, member: str, parse: Callable[[Any], Any]) -> Any:
    """What `parse` makes of a member; whatever is wrong with its bytes is a WeightsFormatError."""
    try:
        with archive.open(member) as stream:
            return parse(stream)
    except OSError:
        raise
    except Exception as error:  # of zipfile, zlib, NumPy, or tokenize, with which it reads headers
        raise _broken(path, f"{member}: {error}") from error


def _read_header(stream: Any) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else None
    shape, _, dtype = (read or np.lib.format.read_array_header_2_0)(stream)
    return shape, dtype


def _headers(archive: zipfile.ZipFile, path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Canonical key → (name in the file, shape), without reading any array."""
    headers: dict[str, tuple[str, tuple[int, ...]]] = {}
    clashes, refused = [], []
    for member in archive.namelist():
        name = member.removesuffix(".npy")
        shape, dtype = _parsed(archive, path, member, _read_header)
        if dtype.kind != "f":
            refused.append(f"{name} ({dtype})")
        key = _canonical(name)
        if key in headers:
            clashes.append(f"{headers[key][0]} and {name}")
        headers[key] = (name, shape)
    if refused:
        raise WeightsFormatError(f"{path} holds arrays that are not floats: {', '.join(refused)}.")
    if clashes:
        raise WeightsFormatError(f"{path} holds the same weight twice: {', '.join(clashes)}.")
    return headers


def _check_sum(stream: Any) -> None:
    """Reads to the end, where zipfile compares the checksum."""
    while stream.read(1 << 20):
        pass


def _read_array(stream: Any) -> np.ndarray:
    return np.lib.format.read_array(stream, allow_pickle=False)


def head_classes(path: str | PathLike[str]) -> int | None:
    """Outputs of the head that an npz file holds, or None when it holds none."""
    path = Path(path)
    with _open(path) as archive:
        headers = _headers(archive, path)
    return headers[HEAD_KERNEL][1][-1] if HEAD_KERNEL in headers else None


def _audit(
    wanted: dict[str, Any], headers: dict[str, tuple[str, tuple[int, ...]]], path: Path
) -> None:
    """Raises one error that lists every difference between model and file."""
    missing = [key for key in wanted if key not in headers]
    extra = [name for key, (name, _) in headers.items() if key not in wanted]
    shapes = [
        f"{key}: model {_file_shape(key, variable)}, file {headers[key][1]}"
        for key, variable in wanted.items()
        if key in headers and headers[key][1] != _file_shape(key, variable)
    ]
    parts = [
        f"{title} ({len(names)}):\n  " + "\n  ".join(names)
        for title, names in (
            ("missing from the file", missing),
            ("in the file but not in the model", extra),
            ("of another shape", shapes),
        )
        if names
    ]
    if not parts:
        return
    hint = ""
    if {*missing, *(s.split(":")[0] for s in shapes)} <= {*_HEAD} and set(extra) <= {*_HEAD}:
        hint = "\nOnly the head differs: pass skip_head=True to keep the model's own."
    raise WeightsFormatError(f"{path} does not fit the model.\n" + "\n".join(parts) + hint)


def load_npz(model: Any, path: str | PathLike[str], skip_head: bool = False) -> None:
    """Loads a BiT npz file into a model; strict, and key by key, so that one array is in memory.

    Numbered scopes (`standardized_conv2d_17`) are understood. Names, shapes and checksums are all
    checked before the first weight is changed. float16, float32 and float64 arrays are accepted.

    Args:
        model: a `ResNetV2`.
        path: the npz file.
        skip_head: leave the model's head as it is, whatever head the file has.

    Raises:
        FileNotFoundError: there is no such file.
        WeightsFormatError: (a ValueError) no whole npz file, or one with missing, extra or
            mis-shaped weights; all of them are listed.

    Example:
        >>> load_npz(model, "BiT-M-R50x1.npz", skip_head=True)  # doctest: +SKIP
    """
    path = Path(path)
    wanted = _variables(model)
    with _open(path) as archive:
        headers = _headers(archive, path)
        if skip_head:
            wanted = {key: v for key, v in wanted.items() if key not in _HEAD}
            headers = {key: h for key, h in headers.items() if key not in _HEAD}
        _audit(wanted, headers, path)
        members = {key: f"{headers[key][0]}.npy" for key in wanted}
        for member in members.values():
            _parsed(archive, path, member, _check_sum)
        for key, variable in wanted.items():
            value = _parsed(archive, path, members[key], _read_array)
            variable.assign(value.reshape(variable.shape))


def _stored_as(value: np.ndarray, dtype: Any, key: str) -> np.ndarray:
    if dtype is None:
        return value
    with np.errstate(over="ignore"):
        stored = value.astype(dtype)
    if np.isfinite(value).all() and not np.isfinite(stored).all():
        raise ValueError(f"{key} holds values that {stored.dtype} cannot: take float32.")
    return stored


def save_npz(model: Any, path: str | PathLike[str], dtype: Any = None) -> None:
    """Writes a model's weights in the layout of the released BiT files.

    The file appears under its name only when it is whole, and the same weights give the same bytes.

    Args:
        model: a `ResNetV2`.
        path: the file to write, by custom ending in `.npz`.
        dtype: of the arrays in the file, e.g. "float16" for half the size; the variables' own when
            left out.

    Raises:
        ValueError: when a weight is too large for `dtype`.
        OSError: when the file cannot be written, on a full disk for example; a file that was there
            before is then untouched.

    Example:
        >>> save_npz(model, "fine-tuned.npz")  # doctest: +SKIP
    """
    with replacing(path) as partial, zipfile.ZipFile(partial, "w") as archive:
        for key, variable in _variables(model).items():
            value = np.asarray(variable)
            if value.dtype.kind != "f":  # bfloat16, which npz does not know
                value = value.astype(np.float32)
            value = _stored_as(value, dtype, key)
            member = zipfile.ZipInfo(f"{key}.npy")  # dated 1980, so that bytes are reproducible
            with archive.open(member, "w", force_zip64=True) as stream:
                np.lib.format.write_array(
                    stream, value.reshape(_file_shape(key, variable)), allow_pickle=False
                )
