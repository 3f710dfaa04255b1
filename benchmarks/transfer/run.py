"""Measures the transfer table: `python -m benchmarks.transfer.run --work runs/transfer`.

Adds a line to WORK/results.jsonl for each target, start and seed. Killed, it goes on when the same
command is given again; --seeds may grow. `tfds:stamps` must have been prepared (docs/transfer.md).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.transfer.results import Results
from benchmarks.transfer.targets import (
    LEARNING_RATE,
    MODEL,
    PRETRAINED,
    PROBES,
    SEEDS,
    STARTS,
    TARGETS,
    Job,
    jobs,
)
from bit_keras.pretrained import find_weights

# One thread each: two processes then waste nothing. And freed memory is kept: giving it back to
# the system and asking for it again at every update costs a quarter of the time.
ENVIRONMENT = {
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": "1000000000",
    "MALLOC_TRIM_THRESHOLD_": "2000000000",
    "MALLOC_TOP_PAD_": "200000000",
}


class Bench:
    """Does jobs.

    Args:
        work: the folder with data and results.
        weights: pre-trained weights, as `ResNetV2.from_preset` takes them.
        learning_rate: of all trainings, after the warm-up.
    """

    def __init__(self, work: Path, weights: str, learning_rate: float = LEARNING_RATE) -> None:
        from benchmarks.transfer.training import Learners
        from bit_keras.files import sha256_of

        self.work, self.weights, self.learning_rate = work, weights, learning_rate
        file = find_weights(f"{MODEL}.npz") if weights == "pretrained" else Path(weights)
        self.digest = sha256_of(file)
        self._room = tempfile.TemporaryDirectory()  # for checkpoints that nobody reads
        self.learners = Learners(Path(self._room.name))
        self._sources: dict[str, Any] = {}

    def source(self, data: str) -> Any:
        """A data set, opened once."""
        from benchmarks.transfer.data import prepare
        from bit_keras.sources import load_source

        if data not in self._sources:
            self._sources[data] = load_source(f"npz:{prepare(data, self.work)}")
        return self._sources[data]

    def parts(self, job: Job) -> list[tuple[Any, Any]]:
        """For each training: what to train on and what to test on, as indices or None for all."""
        import numpy as np

        from benchmarks.transfer.data import folds
        from bit_keras.sources import few_shot_indices

        target = TARGETS[job.target]
        source = self.source(target.data)
        labels = source.labels("train")
        if target.folds > 1:
            parts = folds(labels, target.folds, job.seed)
            everything = np.arange(len(labels))
            return [(np.setdiff1d(everything, part), part) for part in parts]
        if target.shots:
            return [(few_shot_indices(labels, target.shots, job.seed, source.class_names), None)]
        return [(None, None)]

    def _trained(self, job: Job, train: Any, test: Any) -> Any:
        from benchmarks.transfer.training import initial_weights, open_target

        target = TARGETS[job.target]
        source, rate = self.source(target.data), self.learning_rate
        task = open_target(target, source, job.start, job.seed, train, rate)
        count = task.source.num_classes
        weights = initial_weights(job.start, count, self.weights, job.seed)
        learner = self.learners(task.rule, count)
        found = learner.learn(task, weights, seed=job.seed, flip=target.flip, tested=test)
        return found.confusion

    def _probed(self, job: Job, train: Any, test: Any) -> Any:
        from benchmarks.transfer.probe import Features, probe

        target = TARGETS[job.target]
        source = self.source(target.data)
        features = Features(job.start, self.weights, job.seed)
        seen = features(source, "train", target.crop, train)
        return probe(seen, features(source, "test", target.crop, test), source.num_classes)

    def __call__(self, job: Job) -> dict[str, Any]:
        """Does a job and returns its record, JSON-ready."""
        started, cpu = time.perf_counter(), time.process_time()
        one = self._probed if job.start in PROBES else self._trained
        confusion = sum(one(job, train, test) for train, test in self.parts(job))
        return {
            "target": job.target,
            "start": job.start,
            "seed": job.seed,
            "top1": float(confusion.trace() / confusion.sum()),
            "balanced": float((confusion.diagonal() / confusion.sum(1)).mean()),
            "tested": int(confusion.sum()),
            "seconds": round(time.perf_counter() - started, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
            "learning_rate": self.learning_rate,
            "weights": self.digest if job.start in PRETRAINED else None,
        }


def work_on(options: argparse.Namespace) -> None:
    """Does the jobs that nobody has done or is doing."""
    results = Results(options.work)
    bench: Bench | None = None
    for job in jobs(options.seeds):
        if job.start not in options.starts or job.target not in options.targets:
            continue
        with results.claim(job) as ours:
            if not ours:
                continue
            bench = bench or Bench(options.work, options.weights, options.learning_rate)
            record = bench(job)
            results.add(record)
            told = f"{job.name}: {record['top1']:.1%}, {record['cpu_seconds']} s of CPU"
            print(time.strftime("%H:%M:%S"), told, flush=True)


def _processes(arguments: Sequence[str], count: int) -> int:
    """Runs the same command in several processes of one thread each; the worst exit status."""
    command = [sys.executable, "-m", "benchmarks.transfer.run", *arguments, "--workers=0"]
    running = [subprocess.Popen(command, env=os.environ | ENVIRONMENT) for _ in range(count)]
    return max(abs(process.wait()) for process in running)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.transfer.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--work", type=Path, required=True, help="folder for data, packages and results")
    add("--weights", default="pretrained", help="'pretrained', or the path of an npz file")
    rate = "after the warm-up (%(default)s); take another folder for another rate"
    add("--learning_rate", type=float, default=LEARNING_RATE, help=rate)
    add("--seeds", type=int, default=SEEDS, help="repetitions of everything (%(default)s)")
    add("--workers", type=int, default=2, help="processes (%(default)s); 0: this one only")
    add("--targets", nargs="+", choices=list(TARGETS), default=list(TARGETS), metavar="TARGET")
    add("--starts", nargs="+", choices=list(STARTS), default=list(STARTS), metavar="START")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    options = parse(arguments)
    if options.workers:
        return _processes(arguments, options.workers)
    work_on(options)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
