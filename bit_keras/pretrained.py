"""Finds the released weights: in a given folder, in the cache, or on the network."""

from __future__ import annotations

import os
from pathlib import Path

from bit_keras.download import (
    CACHE_VARIABLE,
    WEIGHTS_VARIABLE,
    WeightsUnavailableError,
    fetch,
)
from bit_keras.presets import BASE_URL

BUNDLED = Path(__file__).parent / "assets/weights"  # of the models pre-trained here


def cache_dir() -> Path:
    """The folder for downloaded weights; it need not exist.

    Returns:
        $BIT_KERAS_CACHE, else $XDG_CACHE_HOME/bit_keras, else ~/.cache/bit_keras.

    Example:
        >>> cache_dir()  # doctest: +SKIP
        PosixPath('/home/me/.cache/bit_keras')
    """
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "bit_keras"


def local_weights(filename: str) -> Path | None:
    """Looks for a weights file on this machine only.

    Args:
        filename: such as "BiT-M-R50x1.npz".

    Returns:
        The file in $BIT_KERAS_WEIGHTS (a folder, or the file itself), else the one that comes with
        the package, else the one in the cache, else None.

    Raises:
        WeightsUnavailableError: when BIT_KERAS_WEIGHTS is set to something that does not exist.

    Example:
        >>> local_weights("no-such-file.npz") is None
        True
    """
    candidates = [BUNDLED / filename, cache_dir() / filename]
    if value := os.environ.get(WEIGHTS_VARIABLE):
        given = Path(value).expanduser()
        if not given.exists():
            raise WeightsUnavailableError(
                f"{WEIGHTS_VARIABLE} must be a folder that holds {filename}, or that file. "
                f"Received: {value}, which does not exist. Correct it, or unset {WEIGHTS_VARIABLE} "
                "to download the file."
            )
        if given.is_dir():
            candidates.insert(0, given / filename)
        elif given.name == filename:
            candidates.insert(0, given)
    return next((path for path in candidates if path.is_file()), None)


def find_weights(filename: str, url: str | None = None) -> Path:
    """Finds a weights file, and downloads it to the cache when it is not on this machine.

    Args:
        filename: such as "BiT-M-R50x1.npz". Looked for in $BIT_KERAS_WEIGHTS, among those that
            come with the package, then in the cache.
        url: where to download it; `BASE_URL/filename` when left out.

    Returns:
        Path of the whole file.

    Raises:
        WeightsUnavailableError: when the file is nowhere, or BIT_KERAS_WEIGHTS is set to something
            that does not exist. The message says what to do.

    Example:
        >>> find_weights("BiT-M-R50x1.npz")  # doctest: +SKIP
        PosixPath('/home/me/.cache/bit_keras/BiT-M-R50x1.npz')
    """
    if (found := local_weights(filename)) is not None:
        return found
    try:
        return fetch(url or f"{BASE_URL}/{filename}", cache_dir() / filename, label=filename)
    except WeightsUnavailableError as error:
        if not (given := os.environ.get(WEIGHTS_VARIABLE)):
            raise
        looked = f"{WEIGHTS_VARIABLE}={given} was looked at first and has no {filename}."
        raise WeightsUnavailableError(f"{error} {looked}") from None
