import time
from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest
from health_records import pretraining

from bit_keras.health import LossWindows, verdicts
from bit_keras.health.curves import Curves, read_curves
from bit_keras.health.norms import decay_times
from bit_keras.health.plan import Plan
from bit_keras.health.trend import trend
from bit_keras.health.windows import moving_mean
from bit_keras.upstream import pretrain_recipe

STEPS = 10_000
NORMAL = np.random.default_rng(0).normal(size=(200, STEPS))  # noise of many runs


def curves(loss, *, rate=0.03, **columns):
    """Records of a run, one step each."""
    given = {"loss": loss, "learning_rate": rate, **columns}
    given = {name: np.broadcast_to(value, np.shape(loss)) for name, value in given.items()}
    names = list(given)
    rows = zip(*given.values(), strict=True)
    return Curves.from_records(
        {"step": step, **dict(zip(names, row, strict=True))} for step, row in enumerate(rows, 1)
    )


def finding(kind, found, plan):
    """The finding of a kind; None when there is none."""
    return next((f for f in verdicts(found, plan) if f.kind == kind), None)


# Windows.


def test_windows_are_the_means_of_the_last_losses():
    losses = NORMAL[0, :500]
    windows = LossWindows(short=7, long=64)
    found = [windows.update(loss) for loss in losses]
    for name, length in (("loss_short", 7), ("loss_long", 64)):
        means = [losses[max(0, i - length + 1) : i + 1].mean() for i in range(500)]
        np.testing.assert_allclose([f[name] for f in found], means, rtol=0, atol=1e-12)
        np.testing.assert_allclose(moving_mean(losses, length), means, rtol=0, atol=1e-12)


def test_windows_of_a_resumed_run_go_on_where_they_were():
    losses = NORMAL[0, :300]
    whole = LossWindows.for_run(300)
    before = [whole.update(loss) for loss in losses]
    resumed = LossWindows.for_run(300).refill(losses[:123])
    assert [resumed.update(loss) for loss in losses[123:]] == before[123:]


def test_windows_do_not_gather_rounding_errors():
    windows = LossWindows(short=3, long=1000)
    for loss in [1e12] * 1000 + [0.1] * 1000:
        found = windows.update(loss)
    assert found["loss_long"] == pytest.approx(0.1, rel=1e-12)


def test_windows_are_refilled_in_time_for_long_runs():
    windows = LossWindows.for_run(2_000_000)
    started = time.process_time()
    windows.refill(NORMAL[0].repeat(20))  # 200,000 steps at a window of 100,000
    assert time.process_time() - started < 10


@pytest.mark.parametrize(("steps", "short", "long"), [(28_151, 140, 1407), (500, 10, 50)])
def test_windows_follow_the_run(steps, short, long):
    windows = LossWindows.for_run(steps)
    assert (windows.short, windows.long) == (short, long)


@pytest.mark.parametrize(("short", "long"), [(0, 5), (5, 5), (6, 5)])
def test_windows_that_are_none_are_refused(short, long):
    with pytest.raises(ValueError, match="short < long"):
        LossWindows(short, long)


# Reading.


def test_a_line_that_is_being_written_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    found = read_curves(path)
    assert (len(found), found.damaged) == (1, 0)


def test_damaged_lines_are_left_out_and_counted(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = ['{"step": 1, "loss": 2.0}', '{"st', "7", '{"step": 2, "loss": "high"}', '{"loss": 1}']
    path.write_text("\n".join([*lines, '{"step": 3, "loss": 1.0}']))
    found = read_curves(path)
    assert found["step"].tolist() == [1, 3]
    assert found.damaged == 4


def test_of_a_step_done_twice_the_last_counts():
    records = [{"step": s, "loss": float(s)} for s in (1, 2, 3)]
    again = [{"step": 2, "loss": 9.0}, {"step": 2, "top1": 0.5}, {"step": 2, "top1": 0.6}]
    found = Curves.from_records(records + again)
    assert found["loss"].tolist() == [1.0, 9.0, 3.0]
    assert found.evaluations == [{"step": 2, "top1": 0.6}]


def test_plateaus_are_the_stretches_of_one_rate():
    rates = np.concatenate([np.linspace(0, 0.03, 50), [0.03] * 100, [0.003] * 200])
    found = curves(np.ones(350), rate=rates).plateaus()
    assert [(p.start, p.stop, p.learning_rate) for p in found] == [
        (49, 150, 0.03),
        (150, 350, 0.003),
    ]


# Trends.


def test_a_trend_is_the_line_with_its_error():
    x = np.arange(4000.0)
    lines = [trend(x, 3 - 1e-4 * x + noise[:4000], 20) for noise in NORMAL]
    deviations = [(line.slope + 1e-4) / line.error for line in lines]
    assert np.mean(deviations) == pytest.approx(0, abs=0.3)
    assert 0.7 < np.std(deviations) < 1.4


def test_noise_alone_is_seldom_called_a_fall():
    x = np.arange(4000.0)
    assert sum(trend(x, noise[:4000], 20).falls for noise in NORMAL) <= 6  # of 200, at 1 %


# Patience.


def loss_states(shape, noise, steps, total):
    """How often each verdict falls over many runs of the same curve."""
    plan = Plan(steps=total)
    x = np.arange(1, steps + 1)
    runs = (curves(shape(x) + noise * e[:steps]) for e in NORMAL[:60])
    return Counter(finding("patience", run, plan).text.split(":")[0] for run in runs)


IMPROVES, FALLS = "The loss looks flat but still improves", "The loss still falls"
FLAT, NOISY = "The loss is flat, on the long window too", "The loss is too noisy for a verdict"


def test_a_power_law_that_looks_flat_is_seen_to_improve():
    found = loss_states(lambda x: 8 * x**-0.15, 0.2, 3_000, 3_300)
    assert found[IMPROVES] > 50
    assert found[IMPROVES] + found[FALLS] >= 57


def test_a_real_plateau_is_called_flat_and_not_improving():
    found = loss_states(lambda x: 2.0 + 0 * x, 0.05, STEPS, 30_000)
    assert found[FLAT] >= 58
    assert found[IMPROVES] + found[FALLS] <= 2


def test_a_curve_that_fell_and_stopped_is_called_flat():
    found = loss_states(lambda x: 2 + 3 * np.exp(-x / 800), 0.05, STEPS, 30_000)
    assert found[FLAT] >= 56
    assert found[IMPROVES] + found[FALLS] <= 4


def test_a_steep_curve_falls_for_every_eye():
    assert loss_states(lambda x: 4 - 2e-4 * x, 0.05, STEPS, 30_000)[FALLS] == 60


def test_noise_that_could_hide_a_fall_forbids_a_verdict():
    assert loss_states(lambda x: 2.0 + 0 * x, 1.0, 1_000, 2_000)[NOISY] >= 57


def test_a_rising_loss_is_a_warning():
    x = np.arange(STEPS)
    found = finding("patience", curves(2 + 5e-5 * x + 0.1 * NORMAL[0]), Plan(steps=30_000))
    assert (found.severity, "rises" in found.text) == ("warning", True)


def test_patience_says_what_comes_next_and_what_it_is_worth():
    x = np.arange(1, 3_001)
    run = curves(8 * x**-0.15 + 0.2 * NORMAL[0, :3_000])
    plan = Plan(steps=10_000, boundaries=(3_300, 6_600))
    found = finding("patience", run, plan)
    assert "300 steps until the learning rate drops at step 3,300" in found.text
    assert found.numbers["long_change"] < -3 * found.numbers["long_error"]
    assert "longer schedule" in finding("patience", run, Plan(steps=3_000)).text


def test_only_the_present_learning_rate_counts():
    # It fell while the rate was high, and has been flat since the drop.
    loss = np.where(np.arange(STEPS) < 5_000, 4 - 2e-4 * np.arange(STEPS), 2.0)
    rates = np.where(np.arange(STEPS) < 5_000, 0.03, 0.003)
    found = finding("patience", curves(loss + 0.05 * NORMAL[0], rate=rates), Plan(steps=STEPS))
    assert found.text.startswith(FLAT)


@pytest.mark.parametrize("rates", [np.linspace(0, 0.03, 900), np.full(900, 0.03)])
def test_a_young_run_or_a_warm_up_is_not_judged(rates):
    found = finding("patience", curves(9 - 1e-3 * np.arange(900), rate=rates), Plan(steps=STEPS))
    assert "Too early" in found.text


# Norms.


def simulated(steps, rate, decay, momentum=0.9, start=1.0, seed=0):
    """Norm of 20 scale-invariant kernels under SGD with momentum and decay in the gradient."""
    random = np.random.default_rng(seed)
    kernels = random.normal(size=(20, 100))
    kernels *= start / np.linalg.norm(kernels, axis=1, keepdims=True)
    velocity, norms = np.zeros_like(kernels), np.empty(steps)
    for step in range(steps):
        length = np.linalg.norm(kernels, axis=1, keepdims=True)
        gradient = random.normal(size=kernels.shape) / 10
        along = np.sum(gradient * kernels, axis=1, keepdims=True) / length
        gradient -= along * kernels / length
        velocity = momentum * velocity - rate * (gradient / length + decay * kernels)
        kernels = kernels + velocity
        norms[step] = np.sqrt(np.sum(kernels**2))
    return norms


def norm_finding(norms, decay, rate=0.05, total=None):
    plan = Plan(
        kind="pre-training", steps=total or len(norms), learning_rate=0.05, momentum=0.9,
        weight_decay=decay, paper=Plan(weight_decay=1e-3),
    )  # fmt: skip
    return finding("weight norm", curves(np.ones(len(norms)), rate=rate, weight_norm=norms), plan)


def test_the_fourth_power_of_the_norm_rests_after_half_the_decay_time():
    time_of_decay = Plan(momentum=0.9, weight_decay=1e-3).decay_time(0.05)
    assert time_of_decay == pytest.approx(1_000)
    power = simulated(6_000, 0.05, 1e-3) ** 4
    rest = power[4_000:].mean()
    left = (rest - power) / (rest - power[0])
    assert np.argmax(left < np.exp(-1)) == pytest.approx(time_of_decay / 2, rel=0.15)


def test_without_decay_the_fourth_power_grows_in_a_straight_line():
    power = simulated(4_000, 0.05, 0.0) ** 4
    assert (power[-1] - power[2_000]) / (power[2_000] - power[0]) == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("start", [1.0, 8.0])
def test_norms_at_equilibrium_are_at_rest(start):
    found = norm_finding(simulated(8_000, 0.05, 1e-3, start=start), 1e-3)
    assert (found.severity, "at rest" in found.text) == ("good", True)


@pytest.mark.parametrize("seed", range(3))
def test_norms_on_their_way_to_equilibrium_raise_no_alarm_and_it_is_foreseen(seed):
    norms = simulated(6_000, 0.05, 1e-3, seed=seed)
    found = norm_finding(norms[:1_200], 1e-3, total=6_000)
    assert (found.severity, "approaches" in found.text) == ("good", True)
    assert found.numbers["equilibrium"] == pytest.approx(norms[4_000:].mean(), rel=0.05)


def test_norms_without_decay_grow_without_bound():
    found = norm_finding(simulated(4_000, 0.05, 0.0), 0.0)
    assert (found.severity, "without bound" in found.text) == ("warning", True)
    assert "recipe's weight decay, 0.001" in found.text


@pytest.mark.parametrize("decay", [None, 0.0, 1e-5, 1e-3])
def test_norms_like_the_root_of_time_grow_without_bound(decay):
    found = norm_finding(70 * np.sqrt(1 + np.arange(8_000) / 500), decay)
    assert (found.severity, "without bound" in found.text) == ("warning", True)


def test_a_run_too_short_for_decay_is_told_without_alarm():
    found = norm_finding(70 * (1 + np.arange(8_000) / 2e5), 1e-5)
    assert (found.severity, "not yet bounded" in found.text) == ("note", True)
    assert found.numbers["decay_time"] == pytest.approx(100_000)


def test_shrinking_norms_are_no_alarm():
    found = norm_finding(simulated(1_200, 0.05, 1e-3, start=12.0), 1e-3)
    assert (found.severity, "shrinks" in found.text) == ("good", True)


def test_a_norm_that_stands_still_at_a_low_rate_proves_no_equilibrium():
    growing = 70 * np.sqrt(1 + np.arange(6_000) / 500)
    norms = np.concatenate([growing, np.full(4_000, growing[-1])])
    rates = np.where(np.arange(STEPS) < 6_000, 0.05, 0.0005)
    found = norm_finding(norms, 1e-3, rate=rates)
    assert (found.severity, found.numbers["end_step"]) == ("warning", 6_000)


# The plan.


def plan_finding(kind, config):
    return finding(kind, curves(np.ones(30)), config)


def test_a_budget_below_the_recipe_is_a_warning_with_the_share():
    found = plan_finding("budget", pretraining(epochs=30, decay_epochs=(10, 20, 27)))
    assert (found.severity, "33 % of the recipe's" in found.text) == ("warning", True)
    assert found.numbers["share"] == pytest.approx(1 / 3, rel=1e-3)


@pytest.mark.parametrize("changes", [{}, {"batch_size": 256}, {"epochs": 300}])
def test_a_budget_of_the_recipe_or_more_is_good(changes):
    assert plan_finding("budget", pretraining(**changes)).severity == "good"


def test_a_warm_up_beyond_the_first_drop_is_a_warning():
    # BiT-S' recipe on few images at its batch of 4096: 164 steps, warm-up 5,000.
    found = plan_finding("warm-up", pretraining(examples=7_473))
    assert (found.severity, "--warmup_steps" in found.text) == ("warning", True)
    assert found.numbers["reached"] == pytest.approx(0.48 * 55 / 5_000, rel=0.01)
    assert plan_finding("warm-up", pretraining()) is None


@pytest.mark.parametrize(
    ("model", "name", "examples", "severity"),
    [
        ("BiT-M-R152x4", "BiT-M", 100_000, "warning"),
        ("BiT-XS-R26x0.5", "BiT-XS", 7_473, "note"),
    ],
)
def test_a_model_too_large_for_its_data_is_told(model, name, examples, severity):
    assert plan_finding("scale", pretraining(model, name, examples)).severity == severity


def test_data_of_the_papers_size_is_no_matter():
    assert plan_finding("scale", pretraining("BiT-S-R152x4")) is None


@pytest.mark.parametrize(
    ("decay", "severity", "words"),
    [
        (0.0, "warning", "no weight decay"),
        (1e-5, "warning", "below the recipe's 0.0001"),
        (1e-4, "good", "time to act"),
    ],
)
def test_weight_decay_is_compared_with_the_recipe(decay, severity, words):
    found = plan_finding("weight decay", pretraining(weight_decay=decay))
    assert (found.severity, words in found.text) == (severity, True)


def test_decay_without_time_to_act_is_told():
    found = plan_finding("weight decay", pretraining("BiT-S-R50x1", "BiT-S", 7_473))
    assert (found.severity, "too short for decay to matter" in found.text) == ("note", True)
    assert found.numbers["decay_times"] < 0.1


def test_decay_times_do_not_depend_on_the_batch():
    # Linear scaling: a smaller batch has a lower rate and as many more steps.
    times = []
    for batch in (4_096, 256):
        recipe = pretrain_recipe("BiT-S").override(batch_size=batch, warmup_steps=0)
        rates = recipe.learning_rate_at(np.arange(recipe.steps))
        times.append(decay_times(rates, Plan(momentum=0.9, weight_decay=1e-4)))
    assert times[0] == pytest.approx(times[1], rel=1e-3)


# The updates.


def test_spikes_are_counted_where_they_begin():
    loss = 2 + 0.2 * NORMAL[0, :4_000]
    loss[[1_000, 2_500, 2_505, 3_000]] += 5
    found = finding("spikes", curves(loss), Plan(steps=4_000))
    assert (found.severity, found.numbers["spikes"]) == ("warning", 3)
    assert "at step 1,001, 2,501, 3,001" in found.text


def test_noise_makes_no_spikes():
    x = np.arange(1, STEPS + 1)
    for noise in NORMAL[:20]:
        skewed = np.exp(0.3 * noise)  # more than a batch's loss is
        for loss in (8 * x**-0.15 + 0.3 * noise, skewed):
            assert finding("spikes", curves(loss), Plan(steps=STEPS)).severity == "good"


def test_a_growing_gradient_is_a_warning_and_a_steady_one_is_not():
    x = np.arange(4_000)
    noise = np.exp(0.3 * NORMAL[0, :4_000])
    for norm, severity in ((2 + x / 500, "warning"), (2 + x / 5_000, "good"), (2 + 0 * x, "good")):
        run = curves(np.ones(4_000), gradient_norm=norm * noise)
        assert finding("gradient norm", run, Plan()).severity == severity


def test_updates_left_out_for_an_overflow_are_counted():
    norm = np.where(np.arange(1_000) % 20, 2.0, np.nan)
    found = finding("overflow", curves(np.ones(1_000), gradient_norm=norm, weight_norm=70), Plan())
    assert (found.severity, found.numbers["updates"]) == ("warning", 50)
    whole = curves(np.ones(1_000), gradient_norm=2.0, weight_norm=70)
    assert finding("overflow", whole, Plan()) is None


def test_a_slow_end_is_a_warning_and_jitter_is_not():
    speed = 300 + 20 * NORMAL[0, :2_000]
    run = curves(np.ones(2_000), images_per_second=speed)
    assert finding("throughput", run, Plan()).severity == "good"
    run = curves(np.ones(2_000), images_per_second=speed * np.r_[np.ones(1_700), np.full(300, 0.5)])
    assert finding("throughput", run, Plan()).severity == "warning"


def with_scores(scores):
    records = [{"step": s, "loss": 1.0, "learning_rate": 0.03} for s in range(1, 31)]
    return Curves.from_records(records + [{"step": s, "top1": t} for s, t in enumerate(scores, 1)])


def test_accuracy_beyond_its_best_is_a_warning():
    noise = 0.003 * NORMAL[0, :30]
    rising = 0.6 - 0.5 * np.exp(-np.arange(30) / 6)
    falling = rising - 0.01 * np.maximum(0, np.arange(30) - 15)
    assert finding("evaluation", with_scores(rising + noise), Plan()).severity == "good"
    assert finding("evaluation", with_scores(falling + noise), Plan()).severity == "warning"


def test_evaluations_that_differ_by_noise_only_are_good():
    runs = [with_scores(0.6 + 0.005 * noise[:30]) for noise in NORMAL]
    found = Counter(finding("evaluation", run, Plan()).severity for run in runs)
    assert found["good"] >= 198  # of 200


# All together.


def test_a_fine_tuning_is_judged_without_the_fields_it_lacks():
    from bit_keras.recipes import hyperrule

    rule = hyperrule(1_000, 224, 224).scaled(64, steps=400)
    config = {"options": {"model": "BiT-M-R50x1", "data": "npz:x"}, "rule": asdict(rule)}
    found = verdicts(curves(2 + 0.1 * NORMAL[0, :400]), config | {"num_examples": 1_000})
    kinds = {f.kind: f for f in found}
    assert not {"weight norm", "weight decay", "gradient norm", "scale"} & set(kinds)
    assert kinds["budget"].severity == "note"
    assert "10 % of the HyperRule's" in kinds["budget"].text


def test_a_healthy_run_has_no_warning():
    recipe = pretrain_recipe("BiT-S").override(batch_size=4_096)
    steps = np.arange(recipe.steps)
    rates = recipe.learning_rate_at(steps)
    noise = np.resize(NORMAL, recipe.steps)
    run = curves(
        1.2 + 6 * np.exp(-steps / 2_000) + 0.8 * (rates > 0.1) + 0.1 * noise,
        rate=rates,
        weight_norm=90 - 20 * np.exp(-steps / 1_500),
        gradient_norm=2 * np.exp(0.1 * noise),
        images_per_second=9_000 + 100 * noise,
    )
    assert [f for f in verdicts(run, pretraining()) if f.severity == "warning"] == []


def test_every_number_of_a_finding_is_finite():
    x = np.arange(3_000)
    run = curves(2 + 0 * x, weight_norm=70, gradient_norm=1.0, images_per_second=9.0)
    for found in verdicts(run, pretraining()):
        assert all(np.isfinite(number) for number in found.numbers.values()), found
        assert not {"nan", "inf"} & set(found.text.split())


def test_no_record_of_a_step_is_an_error():
    with pytest.raises(ValueError, match="no record of a step"):
        verdicts([{"step": 1, "top1": 0.5}], {})
