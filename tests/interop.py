"""Environments of their own for other libraries, and scripts that run in them.

They are made once, with pip, in $BIT_KERAS_INTEROP_VENVS or `.venv-interop/` of the repository, and
made anew when their requirements change.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# As it was when tests were collected: conftest.py then bars the way to the network.
_ONLINE = dict(os.environ)
_FOLDER = Path(
    os.environ.get("BIT_KERAS_INTEROP_VENVS") or Path(__file__).parents[1] / ".venv-interop"
)
_NO_NETWORK = ("connection broken by", "ConnectionError", "TimeoutError", "name resolution")


def interpreter(version):
    """The Python of a version such as "3.11", this very one or one on the path; else a skip."""
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    found = shutil.which(f"python{version}")
    if found is None:
        pytest.skip(f"needs python{version}, which is not on the path")
    return found


def environment(name, *requirements, python=sys.executable):
    """The Python of a virtual environment that holds `requirements`, made where it is missing.

    Args:
        name: of its folder.
        *requirements: as pip takes them, such as "timm==1.0.22".
        python: the interpreter that it is made of; see `interpreter`.

    Skips the test when there is no network to install from; any other failure of pip is an error.
    """
    home = _FOLDER / name
    stamp = home / "requirements.sha256"
    digest = hashlib.sha256("\n".join([python, *requirements]).encode()).hexdigest()
    _FOLDER.mkdir(parents=True, exist_ok=True)
    with (_FOLDER / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test processes make it once
        if not stamp.is_file() or stamp.read_text() != digest:
            _make(home, python, requirements)
            stamp.write_text(digest)
    return home / "bin" / "python"


def _make(home, python, requirements):
    shutil.rmtree(home, ignore_errors=True)
    subprocess.run([python, "-m", "venv", home], check=True, env=_ONLINE)
    command = [home / "bin" / "python", "-m", "pip", "install", "--disable-pip-version-check"]
    pip = subprocess.run(
        [*command, *requirements], capture_output=True, text=True, env=_ONLINE, check=False
    )
    if pip.returncode and any(sign in pip.stderr for sign in _NO_NETWORK):
        pytest.skip(f"no network to install {' '.join(requirements)} from: {pip.stderr[-300:]}")
    if pip.returncode:
        raise RuntimeError(f"pip cannot install {' '.join(requirements)}:\n{pip.stderr[-3000:]}")


def run(python, script, *words, timeout=600, **variables):
    """What a script prints, run by the Python of an environment, on the CPU and offline."""
    settings = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", **variables}
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [python, script, *map(str, words)],
        capture_output=True, text=True, timeout=timeout, env={**inherited, **settings}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{script} ended with {done.returncode}:\n{done.stderr[-3000:]}"
    return done.stdout
