"""Trainings of BiT whose time is public, beside what `scaling` says of them; no TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bit_keras.accelerators import ACCELERATORS
from bit_keras.presets import Architecture
from bit_keras.scaling import EFFICIENCY, FORWARD_PASSES, step_time
from bit_keras.text import table
from bit_keras.upstream import pretrain_recipe
from bit_keras.workload import ACTIVATION_BYTES, Workload, memory_bytes


@dataclass(frozen=True)
class Published:
    """A training whose time its authors tell.

    Attributes:
        name: what it is.
        source: who says so.
        work: a guess at the precision where the authors do not tell.
        cores: of TPUv3.
        seconds: of one update, derived from the published time, epochs and images.
        teacher: a second network that only computes forward.
    """

    name: str
    source: str
    work: Workload
    cores: int
    seconds: float
    teacher: Architecture | None = None

    def predicted(self, efficiency: float = EFFICIENCY) -> float:
        """Seconds of one update by the model."""
        tpu = ACCELERATORS["TPUv3"]
        seconds = step_time(self.work, tpu, self.cores, efficiency).seconds
        if self.teacher:
            images = self.work.batch_size / self.cores
            forward = Workload(self.teacher).forward_flops / efficiency
            passes = FORWARD_PASSES * ACTIVATION_BYTES[self.work.precision]
            traffic = self.teacher.activations() * passes / tpu.memory_bandwidth
            seconds += images * (forward / tpu.peak_for(self.work.precision) + traffic)
        return seconds


_BATCH, _ILSVRC = 4096, 1_281_167
_R50, _R152x2, _R152x4 = Architecture(50, 1), Architecture(152, 2), Architecture(152, 4)
# 9.9k core-days are of the paper's authors' next paper; that they mean the 40 epochs of this one,
# and no fine-tuning, is inferred. The configurations of big_vision say "takes ~32min on v3-128" and
# "300ep take about 15h on a v3-32", evaluations included.
_BIT_L = 9_900 * 86_400 / 512 / pretrain_recipe("BiT-L").steps
_CORE_DAYS = "9.9k core-days: Dosovitskiy et al. 2020, table 2"
_LARGE, _SMALL = Workload(_R152x4, 18_291), Workload(_R50, 1000, precision="float32")
PUBLISHED = (
    Published("BiT-L-R152x4, bfloat16", _CORE_DAYS, _LARGE, 512, _BIT_L),
    Published("the same, remat", _CORE_DAYS, replace(_LARGE, remat=True), 512, _BIT_L),
    Published(
        "R50x1 on ILSVRC-2012, float32",
        "32 min: big_vision configs/bit_i1k.py",
        _SMALL,
        128,
        32 * 60 / (90 * 0.99 * _ILSVRC / _BATCH),
    ),
    Published(
        "R50x1 taught by R152x2, float32",
        "15 h: big_vision configs/proj/distill/bit_i1k.py",
        _SMALL,
        32,
        15 * 3600 / (300 * 0.98 * _ILSVRC / _BATCH),
        teacher=_R152x2,
    ),
)
# Dosovitskiy et al. 2020 (arXiv 2010.11929), table 6: exaFLOPs of training on JFT's 303 M images.
_JFT = 303e6
PUBLISHED_FLOPS = (
    (Architecture(50, 1), 7, 50),
    (Architecture(50, 2), 7, 199),
    (Architecture(101, 1), 7, 96),
    (Architecture(152, 1), 7, 141),
    (Architecture(152, 2), 7, 563),
    (Architecture(152, 2), 14, 1126),
)


def published_table(efficiency: float = EFFICIENCY) -> str:
    """Public training times and FLOP counts beside the model's."""
    times = [
        (
            run.name,
            run.cores,
            f"{1000 * run.seconds:.0f} ms",
            f"{1000 * run.predicted(efficiency):.0f} ms",
            f"{100 * (run.predicted(efficiency) / run.seconds - 1):+.0f} %",
            f"{memory_bytes(run.work, run.cores) / 1e9:.1f} GB",
            run.source,
        )
        for run in PUBLISHED
    ]
    flops = [
        (
            str(architecture),
            epochs,
            f"{published:,}",
            f"{(own := Workload(architecture).flops(epochs * _JFT) / 1e18):,.0f}",
            f"{100 * (own / published - 1):+.1f} %",
        )
        for architecture, epochs, published in PUBLISHED_FLOPS
    ]
    header = ("training, batches of 4096 at 224²", "cores", "step", "model", "off", "memory",
              "from")  # fmt: skip
    return "\n\n".join(
        [
            "Public training times on TPUv3",
            table(header, times, "lrrrrrl"),
            "exaFLOP of training on JFT (Dosovitskiy et al. 2020, table 6)",
            table(("network", "epochs", "published", "model", "off"), flops, "lrrrr"),
        ]
    )
