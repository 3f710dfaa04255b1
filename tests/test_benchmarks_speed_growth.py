import numpy as np
import pytest

from benchmarks.speed import growth, startup
from benchmarks.speed.startup import Starts


def test_a_rate_that_depends_on_the_batch_misses_and_names_the_slow_combination():
    rates = {(128, 1): [0.5, 0.4, 0.5], (128, 8): [0.8, 0.8, 0.8], (224, 1): [0.7, 0.6, 0.8]}
    target = growth.Growth(rates).target()
    assert not target.reached
    assert target.found == "1.60 (1.60–2.00)"
    assert target.why == (
        "Slowest is 128² with batch 1 with 0.500 megapixel/s, 0.62 of those of 128² with batch 8."
    )


def test_flat_rates_reach_the_target():
    target = growth.Growth({(128, 1): [1.0, 2.0], (480, 32): [1.09, 2.18]}).target()
    assert target.reached
    assert (target.found, target.why) == ("1.09 (1.09–1.09)", "")
    assert "128² to 480², batch 1 to 32" in target.asked


def test_combinations_that_were_left_out_have_an_empty_cell():
    found = growth.Growth({(224, 1): [0.5, 0.7, 0.6], (224, 8): [0.8] * 3, (480, 1): [0.7] * 3},
                          [(480, 8)])  # fmt: skip
    table = found.table("title")
    assert table.header == ("megapixel/s", "batch 1", "batch 8")
    assert table.rows[0][1] == "0.600 (0.500–0.700)"
    assert table.rows[1] == ("480²", "0.700 (0.700–0.700)", "–")
    assert "batch 32" not in growth._method(growth.FULL, growth.Growth(found.rates))
    assert "480² with batch 8" in growth._method(growth.FULL, found)


class PretendClock:
    """Stands for `time.perf_counter` and for a process whose calls take as their pixels do."""

    def __init__(self, other_logits=False):
        self.now, self.asked, self.other_logits = 0.0, [], other_logits

    def ask(self, task, side, batch):
        self.asked.append((side, batch))
        self.now += batch * side**2 / 5e5
        return [1.0, 2.0 + 0.1 * (self.other_logits and batch > 1)]


def test_calls_that_would_take_too_long_are_not_tried(monkeypatch):
    clock = PretendClock()
    monkeypatch.setattr(growth.time, "perf_counter", lambda: clock.now)
    kept = growth._checked(clock, [(480, 1), (480, 8), (480, 32)])
    assert kept == [(480, 1), (480, 8)]  # 32 would take 14.7 s
    assert (480, 32) not in clock.asked


def test_an_image_that_is_answered_otherwise_in_a_batch_is_a_fault():
    with pytest.raises(RuntimeError, match="At 128² with batch 8 the first image's logits differ"):
        growth._checked(PretendClock(other_logits=True), [(128, 1), (128, 8)])


def test_an_import_is_held_to_what_it_takes_beside_tensorflows():
    tensorflow = Starts([3.0, 3.5, 3.1], [2.8, 3.3, 2.9])
    near = Starts([3.4, 3.8, 3.3], [3.0, 3.5, 3.1])
    far = Starts([4.4, 4.9, 4.5], [4.1, 4.6, 4.2])
    target = startup.import_target(
        {startup.TENSORFLOW: tensorflow, startup.NETWORK: near}, startup.NETWORK
    )
    assert (target.found, target.reached, target.why) == ("0.20 (0.20–0.20)", True, "")
    target = startup.import_target(
        {startup.TENSORFLOW: tensorflow, startup.NETWORK: far}, startup.NETWORK
    )
    assert (target.found, target.reached) == ("1.30 (1.30–1.30)", False)
    assert "`from bit_keras import ResNetV2` takes 4.20 s" in target.why
    assert "difference is 1.40 s" in target.why


def test_a_first_answer_is_held_to_timms_faster_way_from_the_processs_start():
    starts = {
        startup.OURS: Starts([6.0, 6.0], [1.0, 1.0]),
        startup.TIMM_NPZ: Starts([7.0, 7.0], [3.0, 3.0]),
        startup.TIMM: Starts([5.0, 5.2], [2.0, 2.0]),
    }
    target = startup.answer_target(starts)
    assert not target.reached
    assert "timm, safetensors 5.10" in target.found
    assert target.found.endswith("after the imports 1.00 and 2.00")
    assert "takes 5.00 s of ours" in target.why
    del starts[startup.TIMM]
    assert startup.answer_target(starts).reached


def test_starts_take_turns_in_reversed_order_every_other_round(monkeypatch):
    monkeypatch.setattr(startup, "PAUSE", 0)
    order = []

    def start(name):
        order.append(name)
        return len(order), 0.5

    found = startup.by_turns(("a", "b"), start, 2)
    assert order == ["a", "b", "b", "a"]
    assert (found["a"].wall, found["b"].wall) == ([1, 4], [2, 3])


def test_a_first_answer_that_is_another_is_refused():
    ours = np.array([1.0, -2.0])
    startup.check({startup.OURS: ours, startup.TIMM: ours + 1e-4})
    for wrong in (ours + 0.1, ours * np.nan):
        with pytest.raises(RuntimeError, match="timm, safetensors does not answer as bit_keras"):
            startup.check({startup.OURS: ours, startup.TIMM: wrong})


def test_an_imports_process_takes_longer_than_the_import():
    wall, inside = startup.imported("import json")
    assert 0 < inside < wall
