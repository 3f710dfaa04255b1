"""Virtual environments of their own for other libraries, made once and kept.

They lie in $BIT_KERAS_INTEROP_VENVS, or in `.venv-interop/` of the repository, and are made anew
when their requirements change.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
# PyTorch's peers. PyPI's torchvision, which timm imports, is built for another PyTorch than the one
# for the CPU, hence the exact version here and the operators that `torch_only` declares.
TORCH = ("torch==2.13.0", "timm>=1.0.20", "transformers>=4.57", "safetensors", "numpy")
HOME = Path(os.environ.get("BIT_KERAS_INTEROP_VENVS") or REPOSITORY / ".venv-interop")


class InstallError(RuntimeError):
    """pip could not make an environment; `offline` when that was for want of a network."""

    _OFFLINE = ("connection broken by", "ConnectionError", "TimeoutError", "name resolution")

    def __init__(self, requirements: tuple[str, ...], stderr: str) -> None:
        self.offline = any(sign in stderr for sign in self._OFFLINE)
        super().__init__(f"pip cannot install {' '.join(requirements)}:\n{stderr[-3000:]}")


def environment(
    name: str,
    *requirements: str,
    python: str = sys.executable,
    variables: Mapping[str, str] | None = None,
) -> Path:
    """The Python of a virtual environment that holds `requirements`, made where it is missing.

    Args:
        name: of its folder.
        *requirements: as pip takes them, such as "timm==1.0.22".
        python: the interpreter that it is made of.
        variables: pip's environment variables; this process's when left out.

    Raises:
        InstallError: when pip fails.
    """
    home = HOME / name
    stamp = home / "requirements.sha256"
    digest = hashlib.sha256("\n".join([python, *requirements]).encode()).hexdigest()
    HOME.mkdir(parents=True, exist_ok=True)
    with (HOME / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two processes make it once
        if not stamp.is_file() or stamp.read_text() != digest:
            _make(home, python, requirements, variables)
            stamp.write_text(digest)
    return home / "bin" / "python"


def _make(
    home: Path, python: str, requirements: tuple[str, ...], variables: Mapping[str, str] | None
) -> None:
    shutil.rmtree(home, ignore_errors=True)
    subprocess.run([python, "-m", "venv", home], check=True, env=variables)
    command = [str(home / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check"]
    pip = subprocess.run(
        [*command, *requirements], capture_output=True, text=True, env=variables, check=False
    )
    if pip.returncode:
        raise InstallError(requirements, pip.stderr)
