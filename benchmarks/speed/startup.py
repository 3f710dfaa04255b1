"""Part of the benchmark: seconds until the package is imported and a first image is answered."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.environments import REPOSITORY, TORCH, environment
from benchmarks.speed.contest import PAUSE, Contestant, started
from benchmarks.speed.results import Part, Table, Target
from benchmarks.speed.training import Size, write_inputs

FULL = Size(50, 1, 1000, 224, (1,), 5, 0.0)
QUICK = Size(26, 0.5, 100, 224, (1,), 1, 0.0)
OURS, TIMM_NPZ, TIMM = "bit_keras", "timm, npz", "timm, safetensors"
TENSORFLOW, PACKAGE = "import tensorflow", "import bit_keras"
# The package imports TensorFlow only when something of it is used, so its bare import says little.
NETWORK = "from bit_keras import ResNetV2"
IMPORTS = (TENSORFLOW, PACKAGE, NETWORK)
ALLOWED = 0.3  # seconds that our import may take beside TensorFlow's
TOLERANCE = 1e-3  # of the largest logit
_TIMED = """\
import time
before = time.perf_counter()
{}
print(time.perf_counter() - before, flush=True)
"""


@dataclass
class Starts:
    """Seconds of one way to start, in each round.

    Attributes:
        wall: from the start of the process.
        inside: of the work alone: the import, or what follows the imports.
    """

    wall: list[float] = field(default_factory=list)
    inside: list[float] = field(default_factory=list)

    def add(self, wall: float, inside: float) -> None:
        """A round's."""
        self.wall.append(wall)
        self.inside.append(inside)


def shown(seconds: Sequence[float]) -> str:
    """Median and range."""
    return f"{median(seconds):.2f} ({min(seconds):.2f}–{max(seconds):.2f})"


def differences(ours: Sequence[float], others: Sequence[float]) -> list[float]:
    """Ours less the other's, round by round."""
    return [a - b for a, b in zip(ours, others, strict=True)]


def import_target(starts: Mapping[str, Starts], statement: str) -> Target:
    """Target 7's second: what an import of ours takes beside TensorFlow's."""
    tensorflow, ours = starts[TENSORFLOW], starts[statement]
    more = differences(ours.inside, tensorflow.inside)
    wall = median(differences(ours.wall, tensorflow.wall))
    why = (
        f"`{statement}` takes {median(ours.inside):.2f} s, `{TENSORFLOW}` "
        f"{median(tensorflow.inside):.2f} s; by the processes' whole time the difference is "
        f"{wall:.2f} s."
    )
    reached = median(more) <= ALLOWED
    asked = f"`{statement}` less `{TENSORFLOW}`, seconds: ≤ {ALLOWED:g}"
    return Target("7", asked, shown(more), reached, "" if reached else why)


def answer_target(starts: Mapping[str, Starts]) -> Target:
    """Target 7's third: our first answer, and that of the faster of timm's ways."""
    ours = starts[OURS]
    peer = min((n for n in starts if n != OURS), key=lambda name: median(starts[name].wall))
    theirs = starts[peer]
    found = (
        f"{shown(ours.wall)}, {peer} {shown(theirs.wall)}; after the imports "
        f"{median(ours.inside):.2f} and {median(theirs.inside):.2f}"
    )
    reached = median(differences(ours.wall, theirs.wall)) <= 0
    imports = [median(differences(s.wall, s.inside)) for s in (ours, theirs)]
    why = (
        f"Of this, starting Python and importing takes {imports[0]:.2f} s of ours (TensorFlow) "
        f"and {imports[1]:.2f} s of timm's (PyTorch and torchvision)."
    )
    asked = "first answer, seconds from the process's start, imports included: ≤ timm's"
    return Target("7", asked, found, reached, "" if reached else why)


def check(logits: Mapping[str, np.ndarray]) -> None:
    """Checks that all first answers [K] are ours.

    Raises:
        RuntimeError: when one is another.
    """
    expected = logits[OURS]
    for name, found in logits.items():
        apart = float(np.abs(found - expected).max() / np.abs(expected).max())
        if not apart <= TOLERANCE:  # also for NaN
            raise RuntimeError(
                f"{name} does not answer as {OURS} does, so its time says nothing. Its logits "
                f"differ by {apart:.1e} of the largest; {TOLERANCE:g} is allowed."
            )


def imported(statement: str) -> tuple[float, float]:
    """Imports in a fresh process: seconds of the process, and of the import alone."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    before = time.perf_counter()
    process = subprocess.run(
        [sys.executable, "-c", _TIMED.format(statement)],
        check=True,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, **quiet},
    )
    return time.perf_counter() - before, float(process.stdout)


class Answering:
    """First answers of contestants, each in a process that starts for it and ends after it."""

    def __init__(self, contestants: Sequence[Contestant]) -> None:
        self._contestants = {c.name: c for c in contestants}
        self.logits: dict[str, np.ndarray] = {}
        self.versions: dict[str, str] = {}

    def __call__(self, name: str) -> tuple[float, float]:
        """Seconds from the process's start, and from after the imports."""
        before = time.perf_counter()
        with started([self._contestants[name]]) as [process]:
            wall = time.perf_counter() - before
            about = process.about
        self.logits[name] = np.array(about["logits"])
        self.versions |= about["versions"]
        return wall, about["seconds"]


def by_turns(
    names: Sequence[str], start: Callable[[str], tuple[float, float]], rounds: int
) -> dict[str, Starts]:
    """Starts all in turns, the order reversed every other round."""
    found = {name: Starts() for name in names}
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            time.sleep(PAUSE)
            found[name].add(*start(name))
            print(f"startup: {name} {found[name].wall[-1]:.2f} s", file=sys.stderr)
    return found


def _contestants(size: Size, folder: Path) -> list[Contestant]:
    """Ours and timm's; writes what they read. Starting timm's once writes its safetensors."""
    from bit_keras import ResNetV2, export_module, load_npz

    inputs = write_inputs(size, folder)
    model = ResNetV2(size.depth, size.width, size.classes)
    load_npz(model, inputs["weights"])
    print("startup: exporting", file=sys.stderr)
    module = str(export_module(model, folder / "module", kind="serving"))
    network = {name: inputs[name] for name in ("depth", "width", "classes", "images")}
    worker, python = "benchmarks.speed.startup_torch", environment("torch", *TORCH)
    npz = {**network, "weights": inputs["weights"]}
    found = [
        Contestant(
            OURS, "benchmarks.speed.startup_ours", {"module": module, "images": inputs["images"]}
        ),
        Contestant(TIMM_NPZ, worker, npz, python),
    ]
    if (size.depth, size.width) == (FULL.depth, FULL.width):  # of which timm has a name
        weights = str(folder / "weights.safetensors")
        with started([Contestant(TIMM_NPZ, worker, {**npz, "save": weights}, python)]):
            pass
        found.append(Contestant(TIMM, worker, {**network, "weights": weights}, python))
    return found


def table(title: str, first: str, starts: Mapping[str, Starts]) -> Table:
    """Seconds of all; `first` names those of the work alone."""
    rows = [(name, shown(s.wall), shown(s.inside)) for name, s in starts.items()]
    return Table(title, ("seconds", "from the process's start", first), rows, "lrr")


def measure(quick: bool) -> Part:
    """Measures imports and first answers, each in fresh processes, in turns.

    Args:
        quick: a smaller network, and one round.

    Raises:
        RuntimeError: when a contestant fails, or answers as the others do not.
    """
    size = QUICK if quick else FULL
    with tempfile.TemporaryDirectory() as temporary:
        contestants = _contestants(size, Path(temporary))
        answering = Answering(contestants)
        names = [c.name for c in contestants]
        if not quick:
            by_turns(names, answering, 1)  # files get into the page cache, and answers are checked
            check(answering.logits)
        answers = by_turns(names, answering, size.rounds)
        check(answering.logits)
    imports = by_turns(IMPORTS, imported, size.rounds)
    title = f"First answer of R{size.depth}x{size.width:g} at {size.side}²"
    return Part(
        "startup",
        "Start-up",
        _method(size),
        tables=[
            table("Imports", "import alone", imports),
            table(title, "after the imports", answers),
        ],
        targets=[]
        if quick
        else [
            import_target(imports, PACKAGE),
            import_target(imports, NETWORK),
            answer_target(answers),
        ],
        versions=answering.versions,
    )


def _method(size: Size) -> str:
    rounds = "one round" if size.rounds == 1 else f"{size.rounds} rounds"
    return (
        f"Fresh processes in turns, {rounds}, all files in the page cache. An import's process is "
        f"timed until it has ended. `{PACKAGE}` imports TensorFlow only when something of it is "
        f"used; `{NETWORK}` uses it. A first answer is timed until the logits are there: of the "
        f"serving module of R{size.depth}x{size.width:g}, read by `tf.saved_model.load` in a "
        "process that imports TensorFlow alone, and of timm's network, made by `create_model` from "
        f"an npz or a safetensors file, one image of {size.side}², float32. All logits must be "
        f"ours within {TOLERANCE:g} of the largest."
    )
