"""Part of the benchmark: images/s of the pre-training input beside PyTorch's DataLoader."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.environments import TORCH, environment
from benchmarks.speed.contest import Contestant, Measured, Process, by_turns, started
from benchmarks.speed.photographs import HEIGHT, WIDTH, write_folder
from benchmarks.speed.results import Part, Target, rates_bars, rates_table

OURS, SHARDS, LOADER = "bit_keras, folder", "bit_keras, record shards", "torch DataLoader"
CLASSES, IMAGE_SIZE = 4, 224
SAMPLED = 4  # batches that are compared
# Least and largest share of the image in a crop: ours, so that all have the same crops to make.
AREA = (0.05, 1.0)
# Of means and deviations over some hundred random crops, in the range [-1, 1].
TOLERANCE = 0.1


@dataclass(frozen=True)
class Amount:
    """How much is measured.

    Attributes:
        images: files in the folder.
        batch: images in one.
        rounds: in which each contestant has its turn.
        warmup: seconds of a turn before it counts.
        seconds: that count.
    """

    images: int
    batch: int
    rounds: int
    warmup: float
    seconds: float


FULL = Amount(512, 32, 5, 3.0, 5.0)
QUICK = Amount(64, 32, 2, 1.0, 1.5)


def contestants(folder: Path, shards: Path, batch: int) -> list[Contestant]:
    """Ours from both kinds of files, and PyTorch's.

    Args:
        folder: with class folders of JPEG files.
        shards: the same as record shards.
        batch: images in one.
    """
    common: dict[str, Any] = {"batch": batch, "size": IMAGE_SIZE, "classes": CLASSES}
    ours = "benchmarks.speed.input_worker"
    torch = {"folder": str(folder / "train"), "area": AREA, "workers": os.cpu_count() or 1}
    return [
        Contestant(OURS, ours, {"source": f"folder:{folder}", **common}),
        Contestant(SHARDS, ours, {"source": f"tfrecord:{shards}", **common}),
        Contestant(
            LOADER,
            "benchmarks.speed.torch_input",
            {**torch, **common},
            environment("torch", *TORCH),
        ),
    ]


def check(name: str, found: dict[str, Any], expected: dict[str, Any]) -> str:
    """Compares what two contestants deliver; see `input_turns.described`.

    Args:
        name: of the contestant.
        found: its images and labels, described.
        expected: the other's.

    Returns:
        How far apart their values are, for a table.

    Raises:
        RuntimeError: when it delivers something else.
    """
    apart = [abs(found[key] - expected[key]) for key in ("mean", "deviation")]
    images = sum(found["labels"])
    same = all(found[key] == expected[key] for key in ("shape", "dtype"))
    in_range = -1 <= found["least"] < -0.9 and 0.9 < found["most"] <= 1
    # Every class has the same share of the files.
    mixed = all(abs(len(found["labels"]) * n / images - 1) < 0.5 for n in found["labels"])
    if not (same and in_range and mixed and max(apart) <= TOLERANCE):
        raise RuntimeError(
            f"{name} does not deliver what {LOADER} does, so its time says nothing: {found} and "
            f"{expected}."
        )
    return f"mean {apart[0]:.2f}, deviation {apart[1]:.2f}"


def agreement(processes: Sequence[Process]) -> dict[str, str]:
    """Lets all deliver some batches, and compares them; a note for each of them."""
    found = {}
    for process in processes:
        name = process.contestant.name
        print(f"input: first batches of {name}", file=sys.stderr)
        found[name] = process.ask("sample", batches=SAMPLED)
    return {name: check(name, sample, found[LOADER]) for name, sample in found.items()}


def targets(measured: Sequence[Measured]) -> list[Target]:
    """Target 8."""
    by_name = {m.name: m for m in measured}
    found = []
    for name in (OURS, SHARDS):
        ratio, low, high = by_name[name].ratio_to(by_name[LOADER])
        asked = f"input, {name}: more images/s than the DataLoader, {os.cpu_count()} cores"
        found.append(Target("8", asked, f"{ratio:.2f} × ({low:.2f}–{high:.2f})", ratio > 1))
    return found


def measure(quick: bool) -> Part:
    """Measures how fast ours and PyTorch's deliver training images, in turns.

    Args:
        quick: fewer files, rounds and seconds.

    Raises:
        RuntimeError: when a contestant fails, or delivers something else.
    """
    from bit_keras.records import write_records
    from bit_keras.sources import load_source

    amount = QUICK if quick else FULL
    with tempfile.TemporaryDirectory() as temporary:
        folder, shards = Path(temporary, "photographs"), Path(temporary, "shards")
        print(f"input: writing {amount.images} photographs", file=sys.stderr)
        size = write_folder(folder / "train", amount.images, CLASSES)
        write_records(load_source(f"folder:{folder}"), shards, shards=2)
        with started(contestants(folder, shards, amount.batch)) as processes:
            notes = agreement(processes)
            print("input: measuring", file=sys.stderr)
            measured = by_turns(
                processes, "rate", amount.rounds, warmup=amount.warmup, seconds=amount.seconds
            )
            versions: dict[str, str] = {}
            for process in processes:
                versions |= process.about["versions"]
    title = f"Input for training at {IMAGE_SIZE}²"
    return Part(
        "input",
        "Input",
        _method(size, amount),
        tables=[rates_table(title, measured, 1, LOADER, notes)],
        bars=[rates_bars(title, measured, 1)],
        targets=[] if quick else targets(measured),
        versions=versions,
    )


def _method(size: float, amount: Amount) -> str:
    return (
        f"{amount.images} JPEG files of {WIDTH} × {HEIGHT} pixels and {size / 1000:.0f} kB, in the "
        f"page cache, in {CLASSES} class folders, or the same in two record shards. Every image is "
        f"a random crop of {AREA[0]:.0%} to {AREA[1]:.0%} of the area and of aspect 3/4 to 4/3, "
        f"resized to {IMAGE_SIZE}², mirrored half of the time, float32 in [-1, 1], in batches of "
        f"{amount.batch}. Ours is `pretrain_batches`. PyTorch's is `ImageFolder` and a DataLoader "
        f"of {os.cpu_count()} worker processes, one for each core, with torchvision's "
        "RandomResizedCrop, RandomHorizontalFlip, ToTensor and Normalize on Pillow's images. They "
        "resize differently, each in its models' way: Pillow's bilinear filter averages the pixels "
        "that it leaves out, TensorFlow's, with which BiT was trained, does not. So what is "
        "compared beforehand is the images' form, the mean and deviation of their values and how "
        f"classes are mixed. In every turn reading starts anew, and the first {amount.warmup:g} s "
        "do not count."
    )
