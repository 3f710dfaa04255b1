"""What is compared, as tables: the tasks, the ways to start, and the settings all share.

The rule is the BiT-HyperRule for small tasks (paper, section 3.3) in a light setting, as the
reference code's README has one: a small batch and the schedule not rescaled to it. 500 updates, 100
of warm-up, ÷10 at 150, 300 and 450. The learning rate stays 0.003: scaled linearly to a batch of 16
it would be 0.0001, made for the rule's 16,000 updates of that batch.

Resolution: the network halves the sides five times and was pre-trained at 64 pixels. Pictures with
details are seen at 64; those of 8 to 28 pixels at 32, where enlarging further shows nothing new.
"""

from __future__ import annotations

from dataclasses import dataclass

MODEL = "BiT-XS-R26x0.5"
BATCH_SIZE = 16
STEPS = 500
LEARNING_RATE = 0.003
LONGER = 4  # times as many updates, warm-up and boundaries with them
FOLDS = 5
SEEDS = 5  # the paper's few-shot figures have the median of five


@dataclass(frozen=True)
class Target:
    """A task to transfer to.

    Attributes:
        name: short, for results and file names.
        title: for tables.
        data: name of the npz file that `data.prepare` makes.
        shots: training examples of each class; None for all.
        folds: parts of a cross-validation; 1 where the data has a test split.
        resize: side in pixels to which training images are resized.
        crop: side of their random crop, and of test images.
        flip: mirror half of the training images.
    """

    name: str
    title: str
    data: str
    shots: int | None = None
    folds: int = 1
    resize: int = 80
    crop: int = 64
    flip: bool = True

    @property
    def cost(self) -> int:
        """Of one run, roughly: pixels that pass through the network in an update."""
        return self.folds * self.crop**2


def _digits(name: str, title: str, data: str, shots: int) -> Target:
    return Target(name, title, data, shots, resize=40, crop=32, flip=False)


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("stamps", "Stamps, 5-fold", "stamps", folds=FOLDS),
        Target("embedded", "openclipart-mini", "embedded"),
        *(_digits(f"mnist_{n}", f"MNIST, {n}-shot", "mnist", n) for n in (1, 5, 10, 100)),
        *(
            Target(f"fashion_{n}", f"Fashion-MNIST, {n}-shot", "fashion", n, resize=40, crop=32)
            for n in (5, 100)
        ),
        _digits("digits_5", "sklearn digits, 5-shot", "digits", 5),
    )
}

# Ways to start → a table's column.
STARTS: dict[str, str] = {
    "probe_random": "random features, linear probe",
    "probe": "pre-trained features, linear probe",
    "pretrained": "pre-trained, fine-tuned",
    "scratch": "from scratch, same rule",
    "scratch_4x": "from scratch, 4× longer",
}
PROBES = ("probe_random", "probe")
PRETRAINED = ("probe", "pretrained")  # those that use the pre-trained weights


def steps_of(start: str) -> int:
    """Updates of a start's training; the rule stretches warm-up and boundaries with them.

    Example:
        >>> steps_of("pretrained"), steps_of("scratch_4x")
        (500, 2000)
    """
    return STEPS * LONGER if start == "scratch_4x" else STEPS


@dataclass(frozen=True)
class Job:
    """One number to measure.

    Attributes:
        target: a key of `TARGETS`.
        start: a key of `STARTS`.
        seed: of the draw or the folds, the new weights, the order and the augmentation.
    """

    target: str
    start: str
    seed: int

    @property
    def name(self) -> str:
        """A file name."""
        return f"{self.target}-{self.start}-{self.seed}"


def jobs(seeds: int) -> list[Job]:
    """All that is to be measured: seed after seed, within one the cheap before the expensive.

    A table of what is done so far then has equally many seeds everywhere.
    """

    def cost(job: Job) -> tuple[int, bool, int]:
        return job.seed, job.start == "scratch_4x", TARGETS[job.target].cost

    found = [Job(t, s, seed) for seed in range(seeds) for t in TARGETS for s in STARTS]
    return sorted(found, key=cost)
