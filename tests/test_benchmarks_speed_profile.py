import json
import subprocess
import sys

import pytest

from benchmarks.environments import REPOSITORY
from benchmarks.speed import profile_kinds as kinds
from benchmarks.speed.profile_kinds import Layer, Op, kind_of, least_work, parsed, shared
from benchmarks.speed.profile_tables import Profile, Settings, convolutions_table, kinds_table

B, CONV = "resnet/block1.unit01.b", "block1.unit01.b.standardized_conv2d"
BACK = f"gradient_tape/{B}"


def test_wall_time_is_shared_between_what_runs_at_once_and_adds_up():
    ops = [Op("a", "A", 1, 5), Op("b", "B", 2, 4), Op("c", "C", 3, 4), Op("d", "D", 6, 7)]
    seconds, idle = shared(ops, 0, 10)
    assert seconds == pytest.approx([1 + 0.5 + 1 / 3 + 1, 0.5 + 1 / 3, 1 / 3, 1])
    assert idle == pytest.approx(5)
    assert sum(seconds) + idle == pytest.approx(10)


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ("a/convolution:_MklNativePadWithConv2D", "Conv2D"),
        ("a/BiasAdd:_MklNativeFusedMatMul", "MatMul"),
        ("a/Relu:Relu", "Relu"),
        ("a/x:_FusedConv2D", "Conv2D"),
    ],
)
def test_events_of_operations_are_told_by_their_plain_type(event, expected):
    assert parsed(event, 0, 1).type == expected


@pytest.mark.parametrize(
    "event", ["ExecutorState::Process", "EagerExecute", "f:StatefulPartitionedCall", "while:While"]
)
def test_other_events_and_calls_are_no_operations(event):
    assert parsed(event, 0, 1) is None


@pytest.mark.parametrize(
    ("name", "type_", "expected"),
    [
        (f"{B}.standardized_conv2d_1/convolution", "Conv2D", "convolution 3×3"),
        (f"{BACK}.standardized_conv2d/c", "Conv2DBackpropFilter",
         "convolution 3×3: gradient of kernel"),
        (f"{BACK}.standardized_conv2d/c", "Conv2DBackpropInput",
         "convolution 3×3: gradient of input"),
        (f"{B}.standardized_conv2d/Mean", "Mean", kinds.STANDARDISATION),
        (f"{BACK}.standardized_conv2d/mul", "Mul", kinds.STANDARDISATION),
        (f"{B}.standardized_conv2d/Pad", "Pad", kinds.POOLING),
        (f"{B}.group_norm/Mean", "Mean", kinds.STATISTICS),
        (f"{B}.group_norm/mul", "Mul", kinds.SCALE),
        (f"{B}.relu/Relu", "Relu", kinds.SCALE),
        (f"{BACK}.group_norm/mul", "Mul", kinds.NORM_GRADIENT),
        ("group_norm_gradient/mul", "Mul", kinds.NORM_GRADIENT),
        (f"{BACK}.relu/ReluGrad", "ReluGrad", kinds.NORM_GRADIENT),
        ("resnet/block1.unit01_1/Add", "AddV2", kinds.ADDS),
        ("AddN_3", "AddN", kinds.SUMS),
        ("resnet/root_block.max_pool/MaxPool2d", "MaxPool", kinds.POOLING),
        ("resnet/head.conv2d/MatMul", "MatMul", kinds.HEAD),
        ("sgd/Mul", "Mul", kinds.OPTIMIZER),
        (f"{B}.group_norm/Cast", "Cast", kinds.CASTS),
        ("mul", "Mul", kinds.OTHER),
    ],
)  # fmt: skip
def test_kinds_are_told_by_layer_and_type(name, type_, expected):
    assert kind_of(name, type_, {CONV: 3}) == expected


LAYERS = [
    Layer("root_block.standardized_conv2d", "StandardizedConv2D", [7, 7, 3, 64], [1, 112, 112, 64]),
    Layer("block1.unit01.b.group_norm", "GroupNormalization", [], [1, 56, 56, 64]),
    Layer(CONV, "StandardizedConv2D", [3, 3, 64, 64], [1, 56, 56, 64]),
    Layer("head.conv2d", "Dense", [2048, 10], [1, 10]),
]


def test_the_least_work_counts_two_flop_a_product_and_each_tensor_once():
    work = least_work(LAYERS, training=False)
    assert work["convolution 3×3"][0] == pytest.approx(2e-9 * 9 * 64 * 64 * 56 * 56)
    assert work[kinds.STATISTICS][1] == pytest.approx(4e-9 * 56 * 56 * 64)
    assert work[kinds.SCALE][1] == 2 * work[kinds.STATISTICS][1]
    assert not any("gradient" in kind for kind in work)


def test_the_images_need_no_gradient():
    work = least_work(LAYERS, training=True)
    assert "convolution 7×7: gradient of kernel" in work
    assert "convolution 7×7: gradient of input" not in work
    assert "convolution 3×3: gradient of input" in work


def _profile(precision="float32"):
    ops = [
        (f"{B}.standardized_conv2d/convolution", "Conv2D", 0.006),
        (f"{B}.group_norm/Mean", "Mean", 0.003),
        ("mul", "Mul", 1e-5),
    ]
    settings = Settings("inference", 1, precision=precision)
    return Profile(settings, 0.0099, 0.01, ops, 0.00099, LAYERS, {"gflops": 100, "gbs": 10})


def test_the_table_adds_up_to_the_step_and_shows_rates_beside_the_ceiling():
    table = kinds_table(_profile())
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["convolution 3×3"] == ("6.00", "60.0%", "0.231 GFLOP", "38.5 GFLOP/s", "39%")
    assert rows[kinds.BETWEEN][0] == "0.99"
    whole = rows.pop("the whole step")
    assert whole[:2] == ("10.00", "100.0%")
    assert sum(float(row[0]) for row in rows.values()) == pytest.approx(10)


def test_half_precision_moves_half_the_bytes():
    full, half = (_profile(p).work()[kinds.STATISTICS][1] for p in ("float32", "bfloat16"))
    assert half == full / 2


def test_convolutions_are_told_apart_by_shape():
    (row,) = convolutions_table(_profile()).rows
    assert row[:3] == ("convolution 3×3", "64→64 to 56²", "6.00")


@pytest.mark.parametrize("step", ["inference", "training"])
def test_a_real_step_is_covered_by_its_operations(step):
    settings = Settings(step, 2, 32, "26x0.25").worker()
    asked = [{"do": "layers"}, {"do": "profile", "steps": 1, "seconds": 0.01}]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed.profile_worker", json.dumps(settings)],
        input="".join(json.dumps(line) + "\n" for line in asked),
        capture_output=True, text=True, cwd=REPOSITORY, check=True,
    )  # fmt: skip
    _, layers, found = (json.loads(line) for line in done.stdout.splitlines())
    layers = [Layer(**layer) for layer in layers["is"]]
    profile = Profile(
        Settings(step, 2), layers=layers, ceilings={"gflops": 1, "gbs": 1}, **found["is"]
    )
    by_kind = profile.kinds()
    assert sum(by_kind.values()) == pytest.approx(profile.profiled)
    # Every kind that must move or compute something was seen, under the name that it has there.
    assert set(profile.work()) <= set(by_kind)
    assert (kinds.OPTIMIZER in by_kind) == (step == "training")
    assert by_kind[kinds.BETWEEN] < profile.profiled
