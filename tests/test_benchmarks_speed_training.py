import json

import numpy as np
import pytest

from benchmarks.speed import loss_curves, memory, training
from benchmarks.speed.contest import Contestant, Measured, started
from benchmarks.speed.loss_curves import Comparison
from benchmarks.speed.memory import Figures, Run
from benchmarks.speed.results import Curves, Part
from benchmarks.speed.stock_keras import stock_resnet
from bit_keras import ResNetV2, load_npz

TINY = training.Size(26, 0.5, 5, 32, (4,), 1, 0.0)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return training.write_inputs(TINY, tmp_path_factory.mktemp("inputs"))


def test_the_stock_network_computes_what_ours_does(inputs):
    ours, stock = ResNetV2(26, 0.5, 5), stock_resnet(26, 0.5, 5)
    for model in (ours, stock):
        load_npz(model, inputs["weights"])
    images = np.random.default_rng(1).uniform(-1, 1, (2, 40, 37, 3)).astype(np.float32)
    expected = np.array(ours(images))
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(np.array(stock(images)), expected, atol=2e-5)


def first_updates(inputs, name, folder, **settings):
    from benchmarks.speed.keras_training import Training

    contestant = Training(**{"kind": "ours", **inputs, **settings})
    losses = contestant.losses(batch=4, count=2)
    return losses, training._weights(contestant.save(str(folder / name)), TINY)


def test_ours_in_micro_batches_and_stock_keras_do_the_same_updates(inputs, tmp_path):
    ways = {"bit_keras": {"microbatches": 2}, "stock": {"kind": "stock"}}
    found = {n: first_updates(inputs, n, tmp_path, **settings) for n, settings in ways.items()}
    start = training._weights(inputs["weights"], TINY)
    base = found["bit_keras"][1]
    moved = training.distance(base, start)
    assert moved > 1e-3
    changes = {n: training.distance(weights, base) / moved for n, (_, weights) in found.items()}
    losses = {n: losses for n, (losses, _) in found.items()}
    notes = training.check(losses, changes, base="bit_keras")
    assert notes["bit_keras"] == "–"
    assert losses["bit_keras"][0] != losses["bit_keras"][1]


def test_a_contestant_that_trains_otherwise_is_refused():
    losses = {"timm": [2.0, 1.9], "bit_keras": [2.0, 1.9]}
    assert training.check(losses, {"timm": 0.0, "bit_keras": 1e-3})
    with pytest.raises(RuntimeError, match="bit_keras does not train as timm does"):
        training.check(losses, {"timm": 0.0, "bit_keras": 0.5})
    with pytest.raises(RuntimeError, match=r"1\.95"):
        training.check(losses | {"bit_keras": [2.0, 1.95]}, {"timm": 0.0, "bit_keras": 0.0})


def test_bfloat16_may_differ_more_but_not_much():
    changes = {"timm": 0.0, "timm, bf16": 0.4}
    training.check({"timm": [2.0, 1.9], "timm, bf16": [2.01, 1.91]}, changes)
    with pytest.raises(RuntimeError, match="bf16"):
        training.check({"timm": [2.0, 1.9], "timm, bf16": [2.2, 1.9]}, changes)


def test_target_4_is_a_ratio_round_by_round():
    measured = [
        Measured("bit_keras", [1.0, 2.0, 1.0]),
        Measured("timm", [1.2, 2.8, 1.4]),
        Measured("bit_keras, bf16", [0.7, 1.4, 0.7]),
    ]
    float32, half = training.targets({8: measured})
    assert float32.reached
    assert float32.found == "1.40 (1.20–1.40)"
    assert not half.reached
    assert half.found.startswith("1.43")


def test_a_process_says_what_it_held_and_what_its_loss_was(inputs):
    contestant = training.ours("bit_keras", inputs, microbatches=2)
    found, versions = memory.run(contestant, 4)
    assert found.peak > found.before > 100e6  # bytes
    assert found.seconds > 0
    assert 0 < found.loss < 10
    assert set(versions) == {"bit_keras", "keras", "tensorflow"}


def test_too_little_memory_is_refused_with_what_to_do():
    memory.check_available(10, 10)
    with pytest.raises(RuntimeError, match=r"about 16 GB .* 10\.0 GB are available.*--quick"):
        memory.check_available(16 * 10**9, 10 * 10**9)
    assert 10e9 < memory._needed(memory.FULL) < 20e9


def test_memory_of_another_computation_is_refused():
    runs = [Run("timm", 9, 1, 1.0, 6.9), Run("bit_keras", 3, 1, 1.0, 6.95)]
    with pytest.raises(RuntimeError, match=r"bit_keras has a loss of 6\.95"):
        memory.check(runs)


def test_target_5_takes_the_fastest_that_is_small_enough():
    timm = Figures("timm", 14_000, 13_000, 30.0, 29.0, 31.0)
    small, slow = (
        Figures("4", 4_000, 3_000, 36.0, 36.0, 36.0),
        Figures("8", 3_000, 2_000, 40, 40, 40),
    )
    large = Figures("2", 6_000, 5_000, 33.0, 33.0, 33.0)
    peak, time = memory.targets([timm, slow, small, large])
    assert peak.reached
    assert peak.found == "0.29 (4)"
    assert time.reached
    assert time.found == "1.20 (1.16–1.24; 4)"
    peak, _ = memory.targets([timm, large])
    assert not peak.reached


def test_every_contestant_of_the_memory_part_comes_after_another(inputs, monkeypatch):
    monkeypatch.setattr(memory, "timm", lambda name, inputs: Contestant(name, "none"))
    names = [c.name for c in memory._contestants(inputs, quick=False)]
    assert names[0] == names[-1] == "timm"
    parts = [c.settings["microbatches"] for c in memory._contestants(inputs, False) if c.settings]
    assert set(parts) == {4, 8, 16, 32}


def test_bfloat16_is_compared_with_the_noise_of_seeds():
    rng = np.random.default_rng(0)
    fall = 2 - np.linspace(0, 1, 200)
    exact = [fall + rng.normal(0, 0.1, 200) for _ in range(3)]
    near = loss_curves.compare(exact, exact[0] + rng.normal(0, 0.01, 200), 20)
    assert loss_curves.target(near).reached
    far = loss_curves.compare(exact, exact[0] + 0.2, 20)
    assert far.lead == pytest.approx(0.2)
    assert not loss_curves.target(far).reached
    assert not loss_curves.target(Comparison(noise=0.1, distance=float("nan"), lead=0)).reached


def test_the_trainer_itself_gives_the_losses():
    setting = loss_curves.Setting("BiT-XS-R26x0.5", 32, 4, 3, 0.03, 1, (0,), 1)
    contestant = Contestant("bit_keras", "benchmarks.speed.loss_curves", vars(setting))
    with started([contestant]) as (process,):
        losses = process.ask("train", seed=0, precision="float32")
    assert len(losses) == 3
    assert losses[0] == pytest.approx(np.log(8), abs=0.02)  # the head of 8 classes is zero


def test_curves_come_back_from_their_file(tmp_path):
    curves = Curves("loss", "update", "loss", [("float32", [1, 2], [2.0, 1.5])])
    Part("p", "P", "how", tables=[], curves=[curves]).write(tmp_path)
    found = Part.read(tmp_path / "p.json").curves
    assert found[0].series[0] == ["float32", [1, 2], [2.0, 1.5]]
    data = json.loads((tmp_path / "p.json").read_text())
    del data["curves"]
    (tmp_path / "p.json").write_text(json.dumps(data))
    assert Part.read(tmp_path / "p.json").curves == []
