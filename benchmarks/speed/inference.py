"""Part of the benchmark: images/s of a serving module beside every peer, f32, bfloat16 and int8."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.speed.accuracy import compared
from benchmarks.speed.contest import Measured, Process, by_turns, started
from benchmarks.speed.inference_contestants import (
    OPENVINO_BF16,
    OURS,
    OURS_BF16,
    OURS_INT8,
    OURS_LITERT,
    TIMM,
    TOLERANCES,
    Group,
    groups,
    keras,
)
from benchmarks.speed.inference_files import Files, write_files
from benchmarks.speed.results import Bars, Part, Table, Target, rates_bars, rates_table
from benchmarks.speed.training import Size

FULL = Size(50, 1, 1000, 224, (8, 1), 5, 1.5)
QUICK = Size(26, 0.5, 100, 160, (8, 1), 2, 0.2)
CEILING = "matrix product"
SIDE = 2048  # of the matrices
FLOP_224 = 8.46e9  # of one image of 224² in R50x1: 4.23 GMACs, those of the normalisation included


def differences(
    group: Group, answers: dict[str, np.ndarray], expected: np.ndarray
) -> dict[str, float]:
    """The largest difference of each contestant's logits, of the largest expected one.

    Args:
        group: says how much is allowed.
        answers: logits [B, K] by contestant.
        expected: [B, K].

    Raises:
        RuntimeError: when one computes something else.
    """
    found = {}
    for name, logits in answers.items():
        if logits.shape != expected.shape:
            raise RuntimeError(f"{name} answers {logits.shape}, not {expected.shape}.")
        apart = float(np.abs(logits - expected).max() / np.abs(expected).max())
        if not apart <= group.tolerance(name):  # also for NaN
            raise RuntimeError(
                f"{name} does not answer as {TIMM} does, so its time says nothing. Its logits "
                f"differ by {apart:.1e} of the largest; {group.tolerance(name):g} is allowed."
            )
        found[name] = apart
    return found


def _answers(processes: Sequence[Process], batch: int, folder: Path) -> dict[str, np.ndarray]:
    """Logits of all; also compiles what they compile for this size of batch."""
    out = folder / "logits.npy"
    answers = {}
    for process in processes:
        print(f"inference: batch {batch}, answers of {process.contestant.name}", file=sys.stderr)
        process.ask("answer", batch=batch, out=str(out))
        answers[process.contestant.name] = np.load(out)
    return answers


@dataclass(frozen=True)
class Found:
    """What a group did at one size of batch.

    Attributes:
        group: it.
        batch: images in a call.
        measured: of all contestants.
        apart: differences of their logits, by name.
        ceiling: the time in which the matrix product does as many operations; R50x1 only.
    """

    group: Group
    batch: int
    measured: list[Measured]
    apart: dict[str, float]
    ceiling: Measured | None

    def of(self, name: str) -> Measured:
        """One contestant's times."""
        return next(m for m in self.measured if m.name == name)

    @property
    def title(self) -> str:
        """Of table and picture."""
        images = "1 image" if self.batch == 1 else f"{self.batch} images"
        return f"Inference, {self.group.precision}, {images} a call"


def as_ceiling(product: Measured, images: int) -> Measured:
    """The time of so many images of R50x1 if all were as fast as the matrix product."""
    times = images * FLOP_224 / (2 * SIDE**3)
    return Measured(CEILING, [seconds * times for seconds in product.seconds])


def _contest(
    group: Group, files: Files, size: Size, expected: dict[int, np.ndarray], folder: Path
) -> tuple[list[Found], dict[str, str]]:
    """Lets a group answer and run; and its versions. `expected` is filled by the first group."""
    has_ceiling = size.depth == FULL.depth and group.precision != "int8"
    extra = (
        [keras(CEILING, files, "product", dtype=group.precision, side=SIDE)] if has_ceiling else []
    )
    versions: dict[str, str] = {}
    found = []
    with started([*group.contestants, *extra]) as processes:
        for process in processes:
            versions |= process.about["versions"]
        for batch in size.batches:
            answers = _answers(processes[: len(group.contestants)], batch, folder)
            expected.setdefault(batch, answers.get(TIMM, np.empty(0)))
            apart = differences(group, answers, expected[batch])
            print(f"inference: {group.precision}, batch {batch}", file=sys.stderr)
            measured = by_turns(processes, "run", size.rounds, batch=batch, seconds=size.seconds)
            ceiling = as_ceiling(measured.pop(), batch) if has_ceiling else None
            found.append(Found(group, batch, measured, apart, ceiling))
    return found, versions


def _target(number: str, what: str, least: float, ours: Measured, other: Measured) -> Target:
    ratio, low, high = ours.ratio_to(other)
    return Target(number, what, f"{ratio:.2f} ({low:.2f}–{high:.2f})", ratio >= least)


def targets(found: Sequence[Found]) -> list[Target]:
    """The speed of targets 1, 2 and 3."""
    reached = []
    for f in found:
        where = f"inference, {f.group.precision}, batch {f.batch}"
        if f.group.precision == "float32":
            ours = f.of(OURS)
            best = min(
                (m for m in f.measured if m.name not in (OURS, OURS_LITERT)),
                key=lambda m: m.typical,
            )
            what = f"{where}: ≥ 1.15 × the fastest peer, here {best.name}"
            reached.append(_target("1", what, 1.15, ours, best))
            if f.batch == 8 and f.ceiling:
                what = (
                    f"{where}: ≥ 0.85 of the {CEILING}'s {f.batch / f.ceiling.typical:.1f} images/s"
                )
                reached.append(_target("1", what, 0.85, ours, f.ceiling))
        elif f.group.precision == "bfloat16":
            what = f"{where}: ≥ 1.1 × OpenVINO's default"
            reached.append(_target("2", what, 1.1, f.of(OURS_BF16), f.of(OPENVINO_BF16)))
        else:
            what = f"{where}: ≥ 2 × our float32"
            reached.append(_target("3", what, 2.0, f.of(OURS_INT8), f.of(OURS)))
    return reached


def _table(f: Found) -> Table:
    notes = {name: f"{apart:.0e}" for name, apart in f.apart.items()}
    return rates_table(f.title, f.measured, f.batch, f.group.base, notes)


def _bars(f: Found) -> Bars:
    line = None
    if f.ceiling:
        line = f"{CEILING}, {f.group.precision}", f.batch / f.ceiling.typical
    return rates_bars(f.title, f.measured, f.batch, line)


def measure(quick: bool) -> Part:
    """Measures inference of ours and the peers', in turns, and what fewer bits cost.

    Args:
        quick: a smaller network, fewer rounds and nothing compiled by PyTorch.

    Raises:
        RuntimeError: when a contestant fails, or answers as the others do not.
    """
    size = QUICK if quick else FULL
    found: list[Found] = []
    versions: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = write_files(size, folder)
        expected: dict[int, np.ndarray] = {}
        for group in groups(files, quick):
            results, theirs = _contest(group, files, size, expected, folder)
            found += results
            versions |= theirs
        accuracy = compared(folder, quick)
    return Part(
        "inference",
        "Inference",
        _method(size),
        tables=[*map(_table, found), accuracy.table()],
        bars=list(map(_bars, found)),
        targets=[] if quick else [*targets(found), *accuracy.targets()],
        versions=versions,
    )


def _method(size: Size) -> str:
    return (
        f"{size}, real images, logits as NumPy arrays. Ours is the module that `export_module(kind="
        "'serving')` wrote, called through its signature. timm and Hugging Face run channels last "
        "in `torch.inference_mode`; folded: kernels standardised beforehand; compiled: "
        "`torch.compile` of that, frozen. OpenVINO has the size of the batch compiled in, which is "
        "its fastest way; it, onnxruntime and LiteRT run what `bit_keras.runtimes` wrote. LiteRT's "
        "files are for one image, so that it takes a batch one after the other. All answer the "
        "same images from the same weights, and before anything is timed their logits must be "
        "timm's, within "
        + ", ".join(f"{share:g} in {precision}" for precision, share in TOLERANCES.items())
        + " of the largest: a guard against faults, no measure of quality. The ceiling is a "
        f"product of {SIDE}² matrices in TensorFlow, measured in the same turns, at 8.46 GFLOP an "
        "image (8.18 of them are the convolutions')."
    )
