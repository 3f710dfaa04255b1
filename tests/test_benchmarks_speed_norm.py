from collections import Counter

import keras
import numpy as np
import pytest

from benchmarks.speed import ceilings, norm
from benchmarks.speed.ceilings import Ceilings
from benchmarks.speed.contest import Contestant, Measured, started
from benchmarks.speed.norm_shapes import norm_inputs
from bit_keras import GroupNormalization, ResNetV2
from bit_keras.presets import Architecture

SETTINGS = {"groups": 4, "epsilon": 1e-5}


@pytest.mark.parametrize(("depth", "width", "side"), [(26, 0.25, 64), (50, 0.5, 37)])
def test_the_shapes_are_those_of_the_networks_norms(depth, width, side):
    model = ResNetV2(depth, width)
    norms = [layer.input for layer in model.layers if isinstance(layer, GroupNormalization)]
    inputs = keras.Model(model.input, norms)(np.zeros((1, side, side, 3), np.float32))
    expected = Counter(tuple(x.shape[1:]) for x in inputs)
    assert norm_inputs(Architecture(depth, width), side) == expected


def test_r50x1_and_r152x4_have_a_norm_before_every_convolution_but_the_roots():
    assert [network.shapes().total() for network in norm.NETWORKS] == [49, 151]
    assert norm.NETWORKS[1].shapes()[1, 7, 7, 8192] == 3


def test_our_norm_and_keras_agree_and_are_timed(tmp_path):
    shapes = [(2, 4, 4, 8), (1, 3, 5, 8)]
    ours = Contestant("TensorFlow", "benchmarks.speed.norm_worker", SETTINGS)
    with started([ours]) as processes:
        norm.agreement(processes, shapes, tmp_path)
        times = norm.taken(processes, shapes, rounds=2, seconds=0.0)
    assert list(times) == ["read + write", "ours", "ours, gradient", "keras", "keras, gradient"]
    assert np.shape(list(times.values())) == (5, 2, 2)
    assert np.min(list(times.values())) > 0


def test_another_result_is_refused():
    expected = np.array([1.0, -2.0])
    norm.check("torch", expected + 1e-5, expected)
    for wrong in (expected + 1e-3, expected * np.nan):
        with pytest.raises(RuntimeError, match="torch computes something else"):
            norm.check("torch", wrong, expected)


def test_targets_are_ratios_of_the_same_rounds_over_all_norms():
    seconds = {"read + write": 1.0, "ours": 4.0, "keras": 13.0, "ours, gradient": 10.0,
               "keras, gradient": 20.0}  # fmt: skip
    sums = {name: Measured(name, [s, 2 * s, 3 * s]) for name, s in seconds.items()}
    forward, keras_forward, keras_both = norm.targets(norm.NETWORKS[0], sums)
    assert (forward.found, forward.reached) == ("4.00 (4.00–4.00)", False)
    assert "5 times" in forward.why
    assert (keras_forward.found, keras_forward.reached) == ("3.25 (3.25–3.25)", True)
    assert (keras_both.found, keras_both.reached) == ("2.00 (2.00–2.00)", False)
    assert "three times as fast would be 6.7 ×, 13.3 passes" in keras_both.why
    assert norm.targets(norm.NETWORKS[0], {**sums, "ours": sums["read + write"]})[0].reached


def test_tables_have_a_row_for_each_form_and_shape():
    network = norm.NETWORKS[0]
    shapes = network.shapes()
    times = {name: [[0.001] * len(shapes)] for name in ("read + write", "ours")}
    assert len(norm.shapes_table(network, shapes, times).rows) == len(shapes)
    (_, milliseconds, *_), ours = norm.sums_table(
        network, norm.summed(times, list(shapes.values()))
    ).rows
    assert milliseconds == "49.0"
    assert ours == ("bit_keras.GroupNormalization", "49.0", "1.00", "1.00–1.00", "1.00")


def test_ceilings_are_the_best_of_all_rounds():
    flops = [(1e9, 2e9)] * (len(ceilings.SHAPES) - 1) + [(84.6e9, 169.2e9)]
    found = Ceilings({"float32": flops, "bfloat16": flops}, [(1e9, 2e9), (3e9, 4e9)])
    assert found.product("float32") == 169.2e9
    assert found.traffic() == 4e9
    assert ceilings.floor(found).rows[0] == ("float32", "20.0", "50.0")
    assert ceilings.traffic(found).rows[1] == ("400.0 MB", "4.0", "3.0")
    row = ceilings.products(found).rows[-1]
    assert row == ("[1568, 2304] × [2304, 256]", "169", "85", "169", "85")
    assert ceilings.best_of([[(1.0, 4.0)], [(2.0, 3.0)]]) == [(2.0, 4.0)]


def test_the_ceilings_worker_multiplies_and_copies():
    from benchmarks.speed import ceilings_worker

    for dtype in ("float32", "bfloat16"):
        ((typical, best),) = ceilings_worker.flops([(8, 4, 2)], 0.0, dtype)
        assert 0 < typical <= best
    ((typical, best),) = ceilings_worker.bandwidth([4096], 0.0)
    assert 0 < typical <= best
    assert ceilings_worker.rates(lambda: None, 0.0, 0.0) == (0.0, 0.0)
