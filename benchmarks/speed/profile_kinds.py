"""What kind of work each operation of a profiled step is, and the least that the work needs.

Kinds are told by the names of our layers and the types of TensorFlow's operations. A gradient that
a layer computes by itself, in `tf.custom_gradient`, is told by "gradient" in its name scope.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

STATISTICS, SCALE = "group norm: statistics", "group norm: scale, shift, ReLU"
NORM_GRADIENT = "group norm, ReLU: gradient"
ADDS, SUMS, POOLING = "residual additions", "sums of gradients (AddN)", "padding and pooling"
STANDARDISATION, CASTS = "standardisation of kernels", "casts"
HEAD, OPTIMIZER, COMPILED = "head and loss", "optimizer", "compiled by XLA"
OTHER, BETWEEN = "other operations", "between operations"
CONVOLUTION = re.compile(r"convolution (\d+)×\1(.*)")
OF_INPUT, OF_KERNEL = ": gradient of input", ": gradient of kernel"

_CONV_LAYER = re.compile(r"((?:root_block|block\d+\.unit\d+\.[abc](?:\.proj)?)\.\w*conv2d)")
_CONVOLVES = re.compile(r"Conv2D|MatMul|BatchMatMul|Einsum")
_NORM = re.compile(r"norm")
_STATISTICS = re.compile(
    r"Mean|Sum|Square|SquaredDifference|Sub|Rsqrt|Tile|Reshape|AvgPool|Transpose|Einsum|\w*MatMul|"
    r"\w*BatchNorm\w*|\w*InstanceNorm|\w*LayerNorm|Reciprocal|Maximum"
)
_CALLS = re.compile(r"(Stateful|TPU)?PartitionedCall|While|If|Case|StatelessWhile|StatelessIf")


@dataclass(frozen=True)
class Op:
    """One run of an operation.

    Attributes:
        name: with its scopes.
        type: without the prefixes of TensorFlow's variants: "Conv2D", also for a fused one.
        begin, end: seconds.
    """

    name: str
    type: str
    begin: float
    end: float


@dataclass(frozen=True)
class Layer:
    """A layer's shapes in the profiled step.

    Attributes:
        name: of the layer.
        kind: its class, such as "GroupNormalization".
        kernel: shape of its kernel, [height, width, in, out], or nothing.
        output: shape of its output, [batch, height, width, channels].
    """

    name: str
    kind: str
    kernel: Sequence[int]
    output: Sequence[int]


def parsed(event: str, begin: float, end: float) -> Op | None:
    """The operation that an event of TensorFlow's profiler is about, if it is about one.

    Events are called "scopes/name:Type"; calls of functions are left out, for what they call has
    events of its own.

    Example:
        >>> parsed("a/convolution:_MklNativeFusedConv2D", 0, 1).type
        'Conv2D'
    """
    name, _, kind = event.rpartition(":")
    kind = re.sub(r"^_*(Mkl)?(Native)?(Fused)?(PadWith)?(?=[A-Z])", "", kind.split("#")[0])
    if not name or name.endswith(":") or not re.fullmatch(r"_?[A-Z]\w*", kind):
        return None
    return None if _CALLS.fullmatch(kind) or " " in name else Op(name, kind, begin, end)


def shared(ops: Sequence[Op], begin: float, end: float) -> tuple[list[float], float]:
    """Wall time shared out: where n operations run at once, each gets an n-th of it.

    Args:
        ops: of the step.
        begin: of the step, seconds.
        end: of the step, seconds.

    Returns:
        Seconds of each operation, and those in which none ran; their sum is end − begin.

    Example:
        >>> shared([Op("a", "A", 0, 2), Op("b", "B", 1, 2)], 0, 3)
        ([1.5, 0.5], 1.0)
    """
    seconds, idle, now = [0.0] * len(ops), 0.0, begin
    waiting = sorted(range(len(ops)), key=lambda i: ops[i].begin)
    running: list[tuple[float, int]] = []
    while now < end:
        while waiting and ops[waiting[0]].begin <= now:
            i = waiting.pop(0)
            heapq.heappush(running, (ops[i].end, i))
        while running and running[0][0] <= now:
            heapq.heappop(running)
        ahead = [end]
        ahead += [ops[waiting[0]].begin] if waiting else []
        ahead += [running[0][0]] if running else []
        until = min(ahead)
        for _, i in running:
            seconds[i] += (until - now) / len(running)
        idle += 0 if running else until - now
        now = until
    return seconds, idle


def kind_of(name: str, kind: str, sides: Mapping[str, int]) -> str:
    """The kind of work of an operation.

    Args:
        name: with its scopes.
        kind: its type, see `Op`.
        sides: of the convolutions' kernels, by name of the layer.

    Example:
        >>> kind_of("resnet/block1.unit01.b.group_norm/Mean", "Mean", {})
        'group norm: statistics'
    """
    if kind.startswith(("XlaRun", "XlaLaunch", "_XlaRun")):
        return COMPILED
    if kind == "Cast":
        return CASTS
    backward = "gradient" in name or "Backprop" in kind or kind.endswith("Grad")
    if layer := layer_of(name):
        return _of_convolution(sides.get(layer), kind, backward)
    if _NORM.search(name) or "relu" in name.lower():
        if backward:
            return NORM_GRADIENT
        return STATISTICS if _STATISTICS.fullmatch(kind) else SCALE
    if "pool" in name or "root_block.pad" in name:
        return POOLING
    if re.search(r"head|features|softmax|cross_entropy|probabilities", name):
        return HEAD
    if kind == "AddN":
        return SUMS
    if re.search(r"block\d+\.unit\d+(_\d+)?/", name):
        return ADDS
    return OPTIMIZER if re.search(r"\bsgd|momentum|Assign|ResourceApply", name + kind) else OTHER


def layer_of(name: str) -> str:
    """The convolution that an operation belongs to, by its scopes; empty for none."""
    found = _CONV_LAYER.search(name)
    return found[1] if found else ""


def _of_convolution(side: int | None, kind: str, backward: bool) -> str:
    if kind in ("Pad", "PadV2", "Slice"):
        return POOLING
    if not _CONVOLVES.match(kind):
        return STANDARDISATION
    of = "convolution" if side is None else f"convolution {side}×{side}"
    if not backward:
        return of
    return of + (OF_KERNEL if "Filter" in kind else OF_INPUT)


def least_work(layers: Iterable[Layer], training: bool) -> dict[str, tuple[float, float]]:
    """The GFLOP of the convolutions and the GB that other kinds must move, each tensor once.

    Args:
        layers: of the network; the last norm of a unit and its ReLU are one pass.
        training: float32 of a whole update instead of the forward pass.

    Returns:
        kind → (GFLOP, GB of float32).
    """
    work: dict[str, tuple[float, float]] = {}

    def add(kind: str, gflop: float, tensors: float, elements: float) -> None:
        before = work.get(kind, (0.0, 0.0))
        work[kind] = before[0] + gflop, before[1] + 4e-9 * tensors * elements

    for layer in layers:
        elements = prod(layer.output)
        if len(layer.kernel) == 4:
            gflop = 2e-9 * prod(layer.kernel) * prod(layer.output[:3])
            of = f"convolution {layer.kernel[0]}×{layer.kernel[0]}"
            add(of, gflop, 0, 0)
            if training:
                add(of + OF_KERNEL, gflop, 0, 0)
                if layer.kernel[2] > 3:  # the images need no gradient
                    add(of + OF_INPUT, gflop, 0, 0)
        elif layer.kind == "GroupNormalization":
            add(STATISTICS, 0, 1, elements)
            add(SCALE, 0, 2, elements)
            if training:
                add(NORM_GRADIENT, 0, 3, elements)
        elif layer.kind == "Add":
            add(ADDS, 0, 3, elements)
    return work
