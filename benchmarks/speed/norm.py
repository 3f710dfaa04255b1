"""Part of the benchmark: group normalisation alone, over the shapes of R50x1 and R152x4."""

from __future__ import annotations

import math
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.environments import TORCH, environment
from benchmarks.speed.contest import Contestant, Measured, Process, started
from benchmarks.speed.norm_shapes import Network, Shape
from benchmarks.speed.results import Part, Table, Target
from bit_keras.presets import GROUPS, Architecture

EPSILON = 1e-5
# Of the largest value of each result, float32: sums over 56² positions and 64 channels differ in
# their last digits; a wrong formula is off by more.
TOLERANCE = 1e-4
COPY, OURS, KERAS, TORCH_NORM = "read + write", "ours", "keras", "torch"
GRADIENT = ", gradient"
NAMES = {
    COPY: "x + 1: one read, one write",
    OURS: "bit_keras.GroupNormalization",
    KERAS: "keras.layers.GroupNormalization",
    TORCH_NORM: "torch.nn.functional.group_norm",
}
# Of tensors as large as the input, by the operations that TensorFlow runs once it has optimised
# the graph: mean (read), squared difference (read, write), its mean (read), scale (read, write)
# and shift (read, write).
READS, WRITES = 5, 3
NETWORKS = (Network(Architecture(50, 1), 8), Network(Architecture(152, 4), 1))
QUICK = (Network(Architecture(50, 1), 1),)


def check(name: str, found: np.ndarray, expected: np.ndarray) -> None:
    """Compares one result with that of our layer.

    Raises:
        RuntimeError: when it is another one.
    """
    apart = float(np.abs(found - expected).max() / np.abs(expected).max())
    if not apart <= TOLERANCE:  # also for NaN
        raise RuntimeError(
            f"{name} computes something else than {NAMES[OURS]}, so its time says nothing: the "
            f"results differ by {apart:.1e} of the largest; {TOLERANCE:g} is allowed."
        )


def agreement(processes: Sequence[Process], shapes: Sequence[Shape], folder: Path) -> None:
    """Lets all answer for each shape: outputs, and gradients of inputs, gamma and beta."""
    for number, shape in enumerate(shapes, 1):
        print(f"norm: answers for shape {number} of {len(shapes)}", file=sys.stderr)
        found: dict[str, np.ndarray] = {}
        for process in processes:
            process.ask("answers", shape=shape, out=str(folder / "answers.npz"))
            with np.load(folder / "answers.npz") as answers:
                found |= answers
        for key, array in found.items():
            name, _, part = key.partition("/")
            if name != COPY:
                form = OURS + GRADIENT if name.endswith(GRADIENT) else OURS
                check(f"{name} {shape}", array, found[f"{form}/{part}"])


def taken(
    processes: Sequence[Process], shapes: Sequence[Shape], rounds: int, seconds: float
) -> dict[str, list[list[float]]]:
    """Seconds of each form by name: rounds × shapes. In turns, and backwards every other round."""
    found: dict[str, list[list[float]]] = {}
    for number in range(rounds):
        print(f"norm: round {number + 1} of {rounds}", file=sys.stderr)
        backwards = number % 2 == 1
        for process in reversed(processes) if backwards else processes:
            times = process.ask("times", shapes=shapes, seconds=seconds, backwards=backwards)
            for name in times[0]:
                found.setdefault(name, []).append([of_shape[name] for of_shape in times])
    return found


def summed(times: dict[str, list[list[float]]], counts: Sequence[int]) -> dict[str, Measured]:
    """Seconds of all norms of a network: each shape's as often as it occurs, round by round.

    Example:
        >>> summed({"ours": [[1.0, 2.0], [1.5, 2.0]]}, [3, 1])["ours"].seconds
        [5.0, 6.5]
    """
    return {
        name: Measured(name, [float(np.dot(row, counts)) for row in rows])
        for name, rows in times.items()
    }


def measure(quick: bool) -> Part:
    """Measures group normalisation, forward and with gradients, ours and the peers' in turns.

    Args:
        quick: one network, one image, and fewer rounds.

    Raises:
        RuntimeError: when a contestant fails, or computes something else than ours.
    """
    settings = {"groups": GROUPS, "epsilon": EPSILON}
    contestants = [
        Contestant("TensorFlow", "benchmarks.speed.norm_worker", settings),
        Contestant(
            "PyTorch", "benchmarks.speed.torch_norm", settings, environment("torch", *TORCH)
        ),
    ]
    tables: list[Table] = []
    reached: list[Target] = []
    versions: dict[str, str] = {}
    with started(contestants) as processes, tempfile.TemporaryDirectory() as folder:
        for process in processes:
            versions |= process.about["versions"]
        for network in QUICK if quick else NETWORKS:
            shapes = network.shapes()
            agreement(processes, list(shapes), Path(folder))
            times = taken(processes, list(shapes), *((2, 0.02) if quick else (5, 0.12)))
            sums = summed(times, list(shapes.values()))
            tables += [sums_table(network, sums), shapes_table(network, shapes, times)]
            reached += targets(network, sums)
    return Part(
        "norm",
        "Group normalisation alone",
        _method(),
        tables,
        targets=[] if quick else reached,
        versions=versions,
    )


def targets(network: Network, sums: dict[str, Measured]) -> list[Target]:
    """Target 6 for one network."""
    ratio, low, high = sums[COPY].ratio_to(sums[OURS])
    found = [
        Target(
            "6",
            f"group norm, {network}, forward: ≤ 1.5 × one read and one write",
            f"{ratio:.2f} ({low:.2f}–{high:.2f})",
            ratio <= 1.5,
            "" if ratio <= 1.5 else why_forward(ratio),
        )
    ]
    for form, what in (("", "forward"), (GRADIENT, "forward and backward")):
        ratio, low, high = sums[OURS + form].ratio_to(sums[KERAS + form])
        asked = f"group norm, {network}, {what}: ≥ 3 × keras.layers.GroupNormalization"
        shown = f"{ratio:.2f} ({low:.2f}–{high:.2f})"
        why = "" if ratio >= 3 else why_keras(sums[KERAS + form], sums[COPY])
        found.append(Target("6", asked, shown, ratio >= 3, why))
    return found


def why_forward(ratio: float) -> str:
    """Why the forward pass takes so many times as long as one read and one write."""
    return (
        f"The layer is plain TensorFlow operations, which read tensors of the input's size {READS} "
        f"times and write them {WRITES} times: mean (1 read), squared difference (1 read, 1 "
        "write), its mean (1 read), scale (1 read, 1 write), shift (1 read, 1 write). That is "
        f"{(READS + WRITES) / 2:g} × one read and one write when no cache helps; measured is "
        f"{ratio:.2f} ×, the time of {2 * ratio:.1f} passes. 1.5 × are three passes, what one "
        "fused operation would need that reads twice and writes once."
    )


def why_keras(theirs: Measured, copy: Measured) -> str:
    """What three times as fast as Keras' own layer would be."""
    times = copy.ratio_to(theirs)[0]
    return (
        f"Both layers are bound by memory. Keras' takes {times:.1f} × one read and one write, so "
        f"that three times as fast would be {times / 3:.1f} ×, {2 * times / 3:.1f} passes."
    )


def sums_table(network: Network, sums: dict[str, Measured]) -> Table:
    """All norms of a network together."""
    rows = []
    for name, m in sums.items():
        form = GRADIENT if name.endswith(GRADIENT) else ""
        to_copy, low, high = sums[COPY].ratio_to(m)
        against = f"{sums[OURS + form].ratio_to(m)[0]:.2f}" if name != COPY else "–"
        title = NAMES[name.removesuffix(GRADIENT)] + (", forward and backward" if form else "")
        rows.append((title, f"{1e3 * m.typical:.1f}", f"{to_copy:.2f}", f"{low:.2f}–{high:.2f}",
                     against))  # fmt: skip
    header = ("", "ms", "time ÷ x + 1", "range", "time ÷ bit_keras")
    return Table(f"All {network.shapes().total()} norms of {network}", header, rows, "lrrrr")


def shapes_table(
    network: Network, shapes: Counter[Shape], times: dict[str, list[list[float]]]
) -> Table:
    """Milliseconds of each distinct shape."""
    typical = {name: 1e3 * np.median(rows, axis=0) for name, rows in times.items()}
    rows = [
        (
            "×".join(map(str, shape)),
            str(count),
            f"{4e-6 * math.prod(shape):.1f}",
            *(f"{typical[name][i]:.2f}" for name in typical),
        )
        for i, (shape, count) in enumerate(shapes.items())
    ]
    short = [name.replace(GRADIENT, " + backward") for name in typical]
    header = ("input", "norms", "MB", *(f"{name}, ms" for name in short))
    return Table(f"One norm of {network}, by shape", header, rows, "l" + "r" * (len(header) - 1))


def _method() -> str:
    return (
        f"All distinct shapes of the norms' inputs, float32, {GROUPS} groups, each shape's median "
        "weighted by how many norms have it. Our layer, Keras' own and x + 1, which reads and "
        "writes the tensor once, run in one process, each in a `tf.function`, one after the other "
        "in every round and backwards in every other; PyTorch's function, channels last, takes "
        "its turn after or before them. Ratios are taken round by round. Backward means the "
        "gradients of inputs, gamma and beta, given the output's; the output is computed too. "
        f"Before anything is timed, all outputs and gradients must agree within {TOLERANCE:g} of "
        "the largest value."
    )
