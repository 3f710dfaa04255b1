"""Two worker processes on the loopback interface, as `bit-keras pretrain` runs on a cluster."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from toy import MODEL, write_npz

from bit_keras.distribute import make_strategy
from bit_keras.runs import RunFolder

STEPS, BATCH, EXAMPLES = 40, 8, 64
# Low, because a rounding error that moves an activation across a ReLU's kink grows with it; see
# test_equivalence.py. Here 0.02 leads to losses that differ by 2 % after 40 updates.
RATE = 0.002
PATIENCE = 300  # seconds for a whole run on a busy machine; a quiet one needs a tenth
NOTICED = 120  # seconds in which a worker must notice that another one is gone


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for held in sockets:
            held.bind(("127.0.0.1", 0))
        return [held.getsockname()[1] for held in sockets]


class Job:
    """Processes of one training, each with its log; none outlives the block."""

    def __init__(self, data, outputs, *flags):
        self.run = RunFolder(outputs[0])
        workers = [f"127.0.0.1:{port}" for port in free_ports(len(outputs))]
        self.logs = [outputs[0].parent / f"{outputs[0].name}-{i}.log" for i in range(len(outputs))]
        self.processes = []
        for index, output in enumerate(outputs):
            environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
            strategy = "one_device"
            if len(outputs) > 1:
                task = {"type": "worker", "index": index}
                config = {"cluster": {"worker": workers}, "task": task}
                environment["TF_CONFIG"] = json.dumps(config)
                strategy = "multi_worker"
            command = [
                sys.executable, "-m", "bit_keras.cli", "pretrain", f"--data={data}",
                f"--output={output}", f"--strategy={strategy}", f"--model={MODEL}",
                f"--batch-size={BATCH}", f"--epochs={STEPS * BATCH / EXAMPLES}",
                "--image-size=32", "--warmup-steps=10", f"--base-learning-rate={RATE}",
                "--checkpoint-every=10", "--evaluate-every=0", "--steps-per-loop=1",
                "--noprogress", *flags,
            ]  # fmt: skip
            with self.logs[index].open("w") as log:
                process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            self.processes.append(process)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()

    def told(self):
        return "\n".join(log.read_text() for log in self.logs)

    def wait(self, timeout=PATIENCE):
        """The exit statuses of all."""
        deadline = time.monotonic() + timeout
        try:
            return [p.wait(max(0.1, deadline - time.monotonic())) for p in self.processes]
        except subprocess.TimeoutExpired:
            pytest.fail(f"not at its end after {timeout} s\n{self.told()[-3000:]}")

    def wait_for_step(self, step):
        deadline = time.monotonic() + PATIENCE
        while not any(record["step"] >= step for record in self.run.read_metrics()):
            if time.monotonic() > deadline or None not in [p.poll() for p in self.processes]:
                pytest.fail(f"never came to step {step}\n{self.told()[-3000:]}")
            time.sleep(0.02)


def losses(run):
    return [record["loss"] for record in run.read_metrics() if "loss" in record]


def weights(run):
    with np.load(run.npz) as arrays:
        return {name: arrays[name] for name in arrays.files}


def largest_difference(one, other):
    assert one.keys() == other.keys()
    return max(np.abs(one[name] - other[name]).max() for name in one)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="module")
def data(folder):
    return write_npz(folder / "toy.npz", train=EXAMPLES, test=12)


@pytest.fixture(scope="module")
def undisturbed(folder, data):
    """A run of two workers. The second one has another --output, where it should write nothing."""
    with Job(data, [folder / "two", folder / "not-the-chief"]) as job:
        assert job.wait() == [0, 0], job.told()
    return job.run


@pytest.mark.long
def test_two_workers_do_what_one_process_does(folder, data, undisturbed):
    # All workers together read the positions of one stream in turn, so each update sees the very
    # examples of a single process's, in another order.
    with Job(data, [folder / "one"]) as job:
        assert job.wait() == [0], job.told()
    assert len(losses(job.run)) == len(losses(undisturbed)) == STEPS
    print("losses", np.abs(np.array(losses(job.run)) - losses(undisturbed)).max(), "weights",
          largest_difference(weights(job.run), weights(undisturbed)))  # fmt: skip
    np.testing.assert_allclose(losses(undisturbed), losses(job.run), rtol=1e-4)
    assert largest_difference(weights(job.run), weights(undisturbed)) < 1e-4
    first, last = np.mean(losses(job.run)[:5]), np.mean(losses(job.run)[-5:])
    assert last < 0.99 * first  # it learned something
    one, two = (json.loads(run.evaluation.read_text()) for run in (job.run, undisturbed))
    assert one["top1"] == pytest.approx(two["top1"])


@pytest.mark.long
def test_only_the_chief_writes(folder, undisturbed):
    assert undisturbed.npz.exists()
    assert undisturbed.keras.exists()
    assert list(undisturbed.checkpoints.glob("step-40.index"))
    assert not (folder / "not-the-chief").exists()


@pytest.mark.long
@pytest.mark.parametrize("victim", [1, 0])
def test_a_killed_worker_ends_the_others_and_the_job_resumes(folder, data, undisturbed, victim):
    output = folder / f"killed-{victim}"
    with Job(data, [output, output]) as job:
        job.wait_for_step(13)
        job.processes[victim].send_signal(signal.SIGKILL)
        killed = time.monotonic()
        survivor = job.processes[1 - victim]
        status = survivor.wait(NOTICED)
        print(f"victim {victim}: noticed after {time.monotonic() - killed:.0f} s, exit {status}")
        told = job.logs[1 - victim].read_text()
    print(told[-1500:])
    assert status == 1
    assert "another worker" in told
    assert "--resume" in told
    assert "Traceback" not in told
    assert not job.run.npz.exists()

    with Job(data, [output, output], "--resume") as job:
        assert job.wait() == [0, 0], job.told()
    assert "Going on from step" in job.logs[0].read_text()
    print("resumed", largest_difference(weights(job.run), weights(undisturbed)))
    assert losses(job.run) == pytest.approx(losses(undisturbed), rel=1e-4)
    assert largest_difference(weights(job.run), weights(undisturbed)) < 1e-5


@pytest.mark.long
def test_sigterm_to_one_worker_saves_and_stops_all_at_one_step(folder, data, undisturbed):
    output = folder / "preempted"
    with Job(data, [output, output]) as job:
        job.wait_for_step(13)
        job.processes[1].send_signal(signal.SIGTERM)
        assert job.wait() == [128 + signal.SIGTERM] * 2, job.told()
    stopped = [log.read_text().partition("Saved at step ")[2].split(";")[0] for log in job.logs]
    step = int(stopped[0])
    print("stopped at", step)
    assert stopped[1] == stopped[0]
    assert 13 <= step < STEPS
    assert (job.run.checkpoints / f"step-{step}.index").exists()

    with Job(data, [output, output], "--resume") as job:
        assert job.wait() == [0, 0], job.told()
    assert f"Going on from step {step}" in job.logs[0].read_text()
    assert losses(job.run) == pytest.approx(losses(undisturbed), rel=1e-4)
    assert largest_difference(weights(job.run), weights(undisturbed)) < 1e-5


@pytest.mark.parametrize("config", ["", "{", '{"cluster": {"ps": []}}', "[]"])
def test_a_cluster_that_cannot_be_read_is_an_error(monkeypatch, config):
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(ValueError, match="TF_CONFIG"):
        make_strategy("multi_worker")
