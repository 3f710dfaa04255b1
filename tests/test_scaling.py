import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bit_keras import cli
from bit_keras.accelerators import ACCELERATORS, get_accelerator
from bit_keras.bench import OFFER, bench
from bit_keras.bench_options import BenchOptions
from bit_keras.memory import update_bytes
from bit_keras.presets import PRESETS, Architecture
from bit_keras.published import PUBLISHED, PUBLISHED_FLOPS, published_table
from bit_keras.scaling import (
    all_reduce_time,
    compute_time,
    fastest_step,
    ring_bytes,
    step_time,
)
from bit_keras.scaling_report import ARCHITECTURES, steps_of, steps_table
from bit_keras.workload import Workload, memory_bytes

R50, LARGEST = Architecture(50, 1), Architecture(152, 4)
TPU, A100 = get_accelerator("TPUv3"), get_accelerator("A100")
COUNTS = [2**power for power in range(13)]


def test_one_accelerator_needs_no_all_reduce():
    for accelerator in ACCELERATORS.values():
        assert all_reduce_time(1e9, 1, accelerator) == 0
        work = Workload(R50, precision="float32")
        assert step_time(work, accelerator, 1).all_reduce == 0
        assert step_time(work, accelerator, 2).all_reduce > 0


def test_ring_bytes_are_those_written_out_by_hand():
    # Four members pass quarters: three times to sum them, three times to hand the sums round.
    assert ring_bytes(4, 100) == 6 * 25
    assert ring_bytes(1, 100) == 0
    assert ring_bytes(2, 100) == 100
    assert ring_bytes(1000, 100) == pytest.approx(199.8)


def test_ring_bytes_are_what_a_simulated_ring_sends():
    members, size = 5, 40
    values = np.random.default_rng(0).normal(size=(members, members, size // members))
    held, sent = values.copy(), np.zeros(members)
    for turn in range(2 * (members - 1)):
        moved = [((m - turn) % members, held[m, (m - turn) % members].copy()) for m in
                 range(members)]  # fmt: skip
        for member, (part, numbers) in enumerate(moved):
            target = (member + 1) % members
            held[target, part] = numbers + (held[target, part] if turn < members - 1 else 0)
            sent[member] += numbers.size
    np.testing.assert_allclose(held, np.broadcast_to(values.sum(0), held.shape))
    np.testing.assert_array_equal(sent, ring_bytes(members, size))


def test_all_reduce_within_and_between_hosts_by_hand():
    # 16 A100 on two hosts: 7/4 of 3 GB at 300 GB/s and 14 hops within, 3 GB at 200 GB/s and
    # two hops between.
    within = 7 / 4 * 3e9 / 300e9 + 14 * 2e-6
    between = 3e9 / 200e9 + 2 * 10e-6
    assert all_reduce_time(3e9, 8, A100) == pytest.approx(within)
    assert all_reduce_time(3e9, 16, A100) == pytest.approx(within + between)
    # A torus of 4 × 4: three hops there and back in each of two directions.
    assert all_reduce_time(0, 16, TPU) == pytest.approx(12 * TPU.latency)


@pytest.mark.parametrize("name", PRESETS)
def test_flop_are_those_of_the_presets(name):
    architecture = PRESETS[name].architecture
    work = Workload(architecture)
    assert work.forward_flops == pytest.approx(2e9 * architecture.gmacs())
    assert work.flops(5) == pytest.approx(5 * 3 * work.forward_flops)
    assert replace(work, remat=True).flops() == pytest.approx(4 * work.forward_flops)
    with_head = Workload(architecture, 1000).forward_flops
    assert with_head - work.forward_flops == pytest.approx(2 * 1000 * architecture.features)


@pytest.mark.parametrize(("architecture", "epochs", "published"), PUBLISHED_FLOPS)
def test_flop_of_training_are_within_5_percent_of_published_ones(architecture, epochs, published):
    found = Workload(architecture).flops(epochs * 303e6) / 1e18
    assert found == pytest.approx(published, rel=0.05)


def test_computing_takes_products_and_traffic_by_hand():
    work = Workload(R50, precision="float32")
    products = 6e9 * R50.gmacs() * 8 / (61.5e12 * 0.5)
    traffic = R50.activations() * 8 * 15 * 4 + R50.parameters() * 4 * (9 + 1 + 2 + 7)
    assert compute_time(work, TPU, 8) == pytest.approx(products + traffic / 450e9)
    # Four micro-batches read the kernels and write their gradients four times, and add these up;
    # the kernels are standardised once.
    more = R50.parameters() * 4 * (3 * (1 + 2) + 4 * 3) / 450e9
    parts = compute_time(replace(work, microbatches=4), TPU, 8)
    assert parts - compute_time(work, TPU, 8) == pytest.approx(more)


@pytest.mark.parametrize("accelerator", ACCELERATORS.values(), ids=ACCELERATORS)
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_more_accelerators_are_faster_and_never_more_than_in_proportion(accelerator, architecture):
    precision = "bfloat16" if "bfloat16" in accelerator.peak else "float16"
    work = Workload(architecture, 18_291, precision=precision)
    steps = [s for s in steps_of(work, accelerator, COUNTS, None, 0.5).values() if s]
    rates = [step.images_per_second for step in steps]
    assert len(steps) > 3
    # Just across the border of a host or pod, the links may cost more than computing gains.
    within = [s.images_per_second for s in steps if s.accelerators <= accelerator.group]
    assert within == sorted(within)
    assert rates[-1] == max(rates)
    for step in steps:
        assert 0 < step.utilisation <= 0.5
        assert 0 < step.efficiency <= 1
        assert step.memory <= 0.9 * accelerator.memory


def test_with_equal_shares_the_step_gets_longer_only_by_the_sum():
    steps = steps_of(Workload(R50, 1000), A100, [1, 8, 512], 64, 0.5)
    assert {step.compute for step in steps.values()} == {steps[1].compute}
    assert steps[512].work.batch_size == 512 * 64
    assert steps[1].efficiency == 1
    assert steps[512].efficiency == pytest.approx(steps[1].seconds / steps[512].seconds)
    assert steps[1].seconds < steps[8].seconds < steps[512].seconds


def test_memory_agrees_with_the_estimate_for_this_machine():
    work = Workload(R50, batch_size=8, precision="float32")
    assert memory_bytes(work) == update_bytes(R50, 224, 8)
    assert memory_bytes(replace(work, batch_size=32), 4) == update_bytes(R50, 224, 8)


def test_memory_of_the_largest_model():
    # 928,340,224 parameters, three copies of four bytes, as the released file's size says of one.
    state = 12 * 928_340_224
    work = Workload(LARGEST, batch_size=8, precision="float32")
    assert memory_bytes(work) == pytest.approx(state + 8 * 8 * LARGEST.activations())
    half = memory_bytes(replace(work, precision="bfloat16")) - state
    assert half == pytest.approx((memory_bytes(work) - state) / 2)
    parts = memory_bytes(replace(work, microbatches=4))
    assert parts == pytest.approx(5 / 3 * state + 2 * 8 * LARGEST.activations())
    assert memory_bytes(replace(work, remat=True)) - state < 0.7 * (memory_bytes(work) - state)


def test_the_fastest_step_that_fits_is_chosen():
    work = Workload(LARGEST, 18_291)
    assert fastest_step(work, TPU, 8) is None
    assert fastest_step(work, TPU, 512).work.remat
    found = fastest_step(work, A100, 1)
    assert (found.work.microbatches > 1, found.work.remat) == (True, False)
    halved = step_time(replace(work, microbatches=found.work.microbatches // 2), A100, 1)
    assert halved.memory > 0.9 * A100.memory
    plenty = replace(A100, memory=1e15)
    assert fastest_step(work, plenty, 1).work.microbatches == 1


def test_a_batch_that_cannot_be_shared_is_an_error():
    with pytest.raises(ValueError, match="batch of 10 cannot be shared equally by 4"):
        step_time(Workload(R50, batch_size=10), A100, 4)
    with pytest.raises(ValueError, match=r"any of \[4, 8\].*--images"):
        steps_of(Workload(R50, batch_size=10), A100, [4, 8], None, 0.5)


def test_unknown_accelerators_and_precisions_name_the_known_ones():
    with pytest.raises(ValueError, match="'abacus'.*TPUv3.*H100"):
        get_accelerator("abacus")
    with pytest.raises(ValueError, match="--precision=float16"):
        BenchOptions(accelerator="V100")
    with pytest.raises(ValueError, match="efficiency"):
        BenchOptions(efficiency=0)
    with pytest.raises(ValueError, match="exclude"):
        BenchOptions(batch_size=8, images=8)


def test_published_times_are_as_far_off_as_the_documentation_says():
    off = {run.name: run.predicted() / run.seconds - 1 for run in PUBLISHED}
    assert off["BiT-L-R152x4, bfloat16"] == pytest.approx(0.01, abs=0.01)
    assert off["the same, remat"] == pytest.approx(0.29, abs=0.01)
    assert off["R50x1 on ILSVRC-2012, float32"] == pytest.approx(0.14, abs=0.01)
    assert off["R50x1 taught by R152x2, float32"] == pytest.approx(0.59, abs=0.01)
    # 9,900 core-days over 512 cores and 2,929,688 updates.
    assert PUBLISHED[0].seconds == pytest.approx(0.5702, abs=1e-4)
    assert all(run.name in published_table() for run in PUBLISHED)


def test_the_table_has_the_numbers_of_the_steps():
    work = Workload(LARGEST, 18_291)
    text = steps_table(work, TPU, [64, 512])
    assert text.startswith("R152x4, 18,291 classes, 224², batches of 4,096, bfloat16, TPUv3\n")
    row = next(line for line in text.splitlines() if line.startswith("512"))
    step = fastest_step(work, TPU, 512)
    assert f"{1000 * step.seconds:.1f} ms" in row
    assert row.endswith("yes")
    assert re.search(r"^ 64 +does not fit$", text, re.M)
    assert "182.92 GMACs" in text
    assert max(map(len, text.split("\n\n")[1].splitlines())) <= 100


def test_the_command_prints_a_model_and_all_architectures(capsys):
    asked = ["bench", "--scaling", "--accelerator=a100", "--accelerators=8,16"]
    assert cli.run([*asked, "--model=BiT-S-R50x1", "--images=32"]) == 0
    text = capsys.readouterr().out
    assert "R50x1, 1,000 classes, 224², 32 images each, bfloat16, A100" in text
    assert "decoding cores" in text
    assert cli.run(asked) == 0
    text = capsys.readouterr().out
    assert all(f"\n{architecture} " in text for architecture in ARCHITECTURES)


def test_without_a_task_the_command_says_what_there_is(capsys):
    assert cli.run(["bench"]) == 0
    assert capsys.readouterr().out.strip() == OFFER
    for line in re.findall(r"bit-keras (bench [^\n]*?)(?:  |\n)", OFFER):
        command, *flags = line.split()
        cli._parse(cli.COMMANDS[command], flags)


def test_usage_errors_name_the_flag(capsys):
    assert cli.run(["bench", "--scaling", "--accelerator=abacus"]) == 2
    assert "TPUv3" in capsys.readouterr().err
    assert cli.run(["bench", "--scaling", "--accelerators=three"]) == 2
    assert "whole numbers" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--help", "--scaling", "--published"])
def test_arithmetic_needs_no_tensorflow(flag):
    code = (
        "import sys; from bit_keras import cli; status = cli.run(['bench', sys.argv[1]]);"
        "assert status == 0 and not {'tensorflow', 'keras', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, flag], check=True, capture_output=True)


def test_the_picture_has_a_line_for_each_architecture(tmp_path):
    path = tmp_path / "scaling.png"
    text = bench(BenchOptions(scaling=True, picture=str(path)))
    assert f"Picture: {path}" in text
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[1] > 1000
    for color in ((68, 1, 84), (202, 225, 31)):  # the first's, and about the last's
        assert (np.abs(pixels.astype(int) - color).sum(-1) < 40).sum() > 500


def test_tables_of_the_documentation_are_what_the_commands_print():
    page = Path(__file__).parent.parent / "docs" / "scaling.md"
    shown = re.findall(
        r"^    bit-keras (bench [^\n]*)\n\n```\n(.*?)\n```$", page.read_text(), re.M | re.S
    )
    assert len(shown) >= 6
    for line, printed in shown:
        command, *flags = line.split()
        options, _ = cli._parse(cli.COMMANDS[command], flags)
        if not options.measure:
            assert bench(options) == printed, line


def test_two_cores_are_needed_to_measure(monkeypatch):
    from bit_keras import measure_scaling

    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0}, raising=False)
    with pytest.raises(OSError, match="two cores; this process may use 1"):
        measure_scaling.measure(1)


@pytest.mark.long
def test_the_model_is_near_what_is_measured_here():
    from bit_keras.measure_scaling import measure

    found = measure(rounds=3)
    # By the processor's clock, which a busy machine disturbs less.
    times = found.processor
    assert found.predicted_one() == pytest.approx(np.median(times.one), rel=0.6)
    assert times.predicted_two == pytest.approx(np.median(times.two), rel=0.6)
    assert 0 < np.median(times.all_reduce) < np.median(times.two)
    assert found.decode > 20
    assert "2 replicas, 2 cores" in found.text()
