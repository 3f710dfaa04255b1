"""What a benchmark ran on: the machine and the libraries, without its name."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = ("tensorflow", "keras", "numpy", "bit-keras")
# Of the processor's features, those that decide how fast matrix products can be.
FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
BUSY = 0.3  # load average of a core above which others are using the machine


@dataclass(frozen=True)
class Machine:
    """A machine and the Python on it.

    Attributes:
        processor: name, family and model.
        features: those of `FEATURES` that it has.
        cores: that this process may use; every contestant uses as many threads.
        memory: GiB.
        kernel: of the operating system, with its version.
        python: its version.
        versions: of our own environment's libraries.
    """

    processor: str
    features: str
    cores: int
    memory: float
    kernel: str
    python: str
    versions: dict[str, str]


def this_machine() -> Machine:
    """What this process runs on.

    Example:
        >>> this_machine().cores > 0
        True
    """
    about = _cpuinfo()
    name = about.get("model name") or platform.processor() or platform.machine()
    if "cpu family" in about:
        name += f" (family {about['cpu family']}, model {about.get('model', '?')})"
    flags = set(about.get("flags", "").split())
    return Machine(
        processor=name,
        features=", ".join(f for f in FEATURES if f in flags),
        cores=_cores(),
        memory=round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        kernel=f"{platform.system()} {platform.release().partition('-')[0]}",
        python=platform.python_version(),
        versions={name: found for name in LIBRARIES if (found := _version(name))},
    )


def load_warning(load: float, cores: int) -> str:
    """What to say about the load average of the last minute; empty on a quiet machine.

    Example:
        >>> load_warning(0.1, 2)
        ''
    """
    if load <= BUSY * cores:
        return ""
    return (
        f"The load average is {load:.1f} on {cores} cores: other programs are using them, and "
        "times will be too long and their ranges wide. Stop them and start again."
    )


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _cpuinfo() -> dict[str, str]:
    """What Linux says of the first processor; nothing elsewhere."""
    path = Path("/proc/cpuinfo")
    first = path.read_text().split("\n\n")[0] if path.exists() else ""
    return dict(re.findall(r"^([^:\n]+?)\s*: (.*)$", first, re.MULTILINE))


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""
