"""Scripts that run in environments of other libraries; see `benchmarks.environments`."""

import os
import shutil
import subprocess
import sys

import pytest

from benchmarks import environments

# As it was when tests were collected: conftest.py then bars the way to the network.
_ONLINE = dict(os.environ)


def interpreter(version):
    """The Python of a version such as "3.11", this very one or one on the path; else a skip."""
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    found = shutil.which(f"python{version}")
    if found is None:
        pytest.skip(f"needs python{version}, which is not on the path")
    return found


def environment(name, *requirements, python=sys.executable):
    """The Python of an environment; a skip where there is no network to install from."""
    try:
        return environments.environment(name, *requirements, python=python, variables=_ONLINE)
    except environments.InstallError as error:
        if error.offline:
            pytest.skip(str(error))
        raise


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
