import importlib.util
import json
import os
import re
import select
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from toy import write_npz

from bit_keras import cli
from bit_keras.data import pretrain_batches
from bit_keras.distribute import Part
from bit_keras.pretrain_options import PretrainOptions
from bit_keras.records import write_records
from bit_keras.sources import load_source

CLUSTER = Path(__file__).parent.parent / "examples" / "cluster"
SECONDS = 60  # for anything that is started here

spec = importlib.util.spec_from_file_location("tf_config", CLUSTER / "tf_config.py")
tf_config = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tf_config)

POD = {"JOB_COMPLETION_INDEX": "2", "JOB_NAME": "bit", "SERVICE": "bits", "WORKERS": "3"}
TASK = {
    "SLURM_PROCID": "3", "SLURM_JOB_NODELIST": "node[01-03,07]", "SLURM_TASKS_PER_NODE": "1(x4)",
}  # fmt: skip


def run(command, path=None, **environment):
    """Runs a program with nothing of the test's own cluster in its environment."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "TF_CONFIG", "JOB_"))}
    kept |= {"PATH": f"{path}:{os.environ['PATH']}"} if path else {}
    return subprocess.run(
        list(map(str, command)), env=kept | environment, capture_output=True, text=True,
        timeout=SECONDS,
    )  # fmt: skip


# tf_config.py


@pytest.mark.parametrize(
    ("nodes", "hosts"),
    [
        ("node[01-03,07]", "node01 node02 node03 node07"),
        ("a", "a"),
        ("a,b[9-11],c", "a b9 b10 b11 c"),
        ("rack[1-2]n[08-09]-ib", "rack1n08-ib rack1n09-ib rack2n08-ib rack2n09-ib"),
        ("gpu-1.cluster,gpu-2.cluster", "gpu-1.cluster gpu-2.cluster"),
    ],
)
def test_node_lists_are_expanded(nodes, hosts):
    assert tf_config.expand_nodes(nodes) == hosts.split()


@pytest.mark.parametrize("nodes", ["", "node[1-", "node[a-b]", "node[1-2-3]"])
def test_other_node_lists_are_refused(nodes):
    with pytest.raises(ValueError, match="Received"):
        tf_config.expand_nodes(nodes)


def test_a_pod_knows_all_pods_of_its_job():
    assert tf_config.tf_config(POD) == {
        "cluster": {"worker": ["bit-0.bits:2222", "bit-1.bits:2222", "bit-2.bits:2222"]},
        "task": {"type": "worker", "index": 2},
    }


def test_a_slurm_task_knows_all_tasks_of_its_step():
    assert tf_config.tf_config(TASK) == {
        "cluster": {"worker": ["node01:2222", "node02:2222", "node03:2222", "node07:2222"]},
        "task": {"type": "worker", "index": 3},
    }


def test_tasks_of_one_node_have_ports_of_their_own():
    found = tf_config.tf_config(
        TASK | {"SLURM_JOB_NODELIST": "a,b,c", "SLURM_TASKS_PER_NODE": "2(x2),1", "PORT": "9000"}
    )
    assert found["cluster"]["worker"] == ["a:9000", "a:9001", "b:9000", "b:9001", "c:9000"]


def test_a_step_smaller_than_its_job_counts_its_own_tasks():
    step = {"SLURM_STEP_NODELIST": "node[01-02]", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}
    found = tf_config.tf_config(TASK | step | {"SLURM_PROCID": "1"})
    assert found["cluster"]["worker"] == ["node01:2222", "node02:2222"]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "Neither JOB_COMPLETION_INDEX"),
        ({"SLURM_PROCID": "0"}, "SLURM_PROCID is set, but SLURM_JOB_NODELIST is not"),
        ({**POD, "WORKERS": "2"}, "Worker 2 is not one of 2"),
        ({**TASK, "SLURM_TASKS_PER_NODE": "1(x3)"}, "4 nodes in"),
        ({**TASK, "SLURM_TASKS_PER_NODE": "one"}, "Not SLURM_TASKS_PER_NODE"),
    ],
)
def test_an_environment_that_cannot_be_used_is_told(environment, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        tf_config.tf_config(environment)
    done = run([sys.executable, CLUSTER / "tf_config.py"], **environment)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_gets_tf_config_and_its_status_is_kept():
    code = "import os, sys; print(os.getpid(), os.environ['TF_CONFIG']); sys.exit(143)"
    command = [sys.executable, CLUSTER / "tf_config.py", sys.executable, "-c", code]
    done = run(command, **POD)
    assert done.returncode == 143
    config = json.loads(done.stdout.partition(" ")[2])
    assert config == tf_config.tf_config(POD)


def test_without_a_command_it_prints():
    done = run([sys.executable, CLUSTER / "tf_config.py"], **TASK)
    assert json.loads(done.stdout) == tf_config.tf_config(TASK)


# The launchers


def commands(path):
    """The words of every `bit-keras pretrain` in a script, a manifest or a page."""
    text = path.read_text("utf-8").replace("\\\n", " ")
    if path.suffix == ".yaml":
        return [re.findall(r"^ *- (\S+)", text.partition("args:")[2], flags=re.M)]
    return [found.split() for found in re.findall(r"bit-keras (pretrain +--[^\n]*)", text)]


@pytest.mark.parametrize("name", ["tpu_vm.sh", "slurm.sbatch", "gke.yaml", "README.md"])
def test_flags_of_pretrain_exist(name):
    flags = cli._flag_values(PretrainOptions)
    found = commands(CLUSTER / name)
    assert found
    for words in found:
        given = {w.partition("=")[0] for w in words if w.startswith("--")}
        assert "--data" in given
        assert "--output" in given
        if name != "README.md":
            assert {"--resume", "--strategy"} <= given
        for flag in given:
            assert flag[2:].removeprefix("no") in flags or flag[2:] in flags, flag


@pytest.mark.parametrize("name", ["tpu_vm.sh", "slurm.sbatch"])
def test_scripts_are_shell(name):
    assert run(["bash", "-n", CLUSTER / name]).returncode == 0


def test_the_manifest_is_one_cluster():
    yaml = pytest.importorskip("yaml")
    service, job = yaml.safe_load_all((CLUSTER / "gke.yaml").read_text())
    template = job["spec"]["template"]["spec"]
    (container,) = template["containers"]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    assert job["spec"]["completionMode"] == "Indexed"
    workers = job["spec"]["completions"]
    assert job["spec"]["parallelism"] == workers == int(environment["WORKERS"])
    assert service["metadata"]["name"] == environment["SERVICE"] == template["subdomain"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert environment["JOB_NAME"] == job["metadata"]["name"]
    config = tf_config.tf_config({**environment, "JOB_COMPLETION_INDEX": str(workers - 1)})
    port = container["ports"][0]["containerPort"]
    assert config["cluster"]["worker"][-1] == f"bit-pretrain-3.bit-pretrain:{port}"
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in template["volumes"]}


def test_the_data_service_manifest_fits_the_script():
    yaml = pytest.importorskip("yaml")
    text = (CLUSTER / "gke_data_service.yaml").read_text()
    service, dispatcher, worker = yaml.safe_load_all(text)
    for deployment in (dispatcher, worker):
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert labels == deployment["spec"]["selector"]["matchLabels"]
    assert service["spec"]["selector"] == dispatcher["spec"]["selector"]["matchLabels"]
    (container,) = worker["spec"]["template"]["spec"]["containers"]
    port = service["spec"]["ports"][0]["port"]
    assert container["args"][0] == f"--dispatcher={service['metadata']['name']}:{port}"


def stand_in(folder, name, script):
    """A program that notes its arguments and does what `script` says."""
    (folder / name).write_text(f'#!/usr/bin/env bash\necho {name} "$@" >> {folder}/log\n{script}\n')
    (folder / name).chmod(0o755)


def called(folder):
    return (folder / "log").read_text().splitlines()


@pytest.mark.parametrize(("status", "requeued"), [(0, False), (1, False), (2, False), (143, True)])
def test_slurm_goes_on_after_a_signal_only(tmp_path, status, requeued):
    stand_in(tmp_path, "srun", f"exit {status}")
    stand_in(tmp_path, "scontrol", "")
    done = run(
        ["bash", CLUSTER / "slurm.sbatch", "--epochs", "3"], tmp_path, DATA="tfrecord:/d",
        OUTPUT="/shared/runs/m", SLURM_SUBMIT_DIR=str(CLUSTER), SLURM_JOB_ID="77",
    )  # fmt: skip
    assert done.returncode == status
    trained, *rest = called(tmp_path)
    assert rest == (["scontrol requeue 77"] if requeued else [])
    command = trained.partition("bit-keras pretrain ")[2].split()
    options, _ = cli._parse(cli.COMMANDS["pretrain"], command)
    assert (options.strategy, options.resume, options.epochs) == ("multi_worker", True, 3)
    assert (options.data, options.output) == ("tfrecord:/d", "/shared/runs/m")


GCLOUD = """
case "$*" in
  *"describe"*state*) cat {0}/state ;;
  *"describe"*networkEndpoints*) echo {1} ;;
  *" create "*) echo READY > {0}/state ;;
  *" delete "*) echo NONE > {0}/state ;;
  *"bit-keras pretrain"*)
    echo x >> {0}/tries
    [[ $(wc -l < {0}/tries) -gt {2} ]] && exit 0
    echo {3} > {0}/state
    exit {4} ;;
esac"""


def tpu_vm(folder, *, hosts=1, failures=0, state="PREEMPTED", status=255):
    (folder / "state").write_text("NONE\n")
    stand_in(folder, "gcloud", GCLOUD.format(folder, hosts, failures, state, status))
    return run(
        ["bash", CLUSTER / "tpu_vm.sh", "--batch_size", "4096"], folder, PROJECT="p", ZONE="z",
        SHARE="10.0.0.2:/runs", DATA="tfrecord:gs://b/d", OUTPUT="m", WHEEL="dist/bit_keras.whl",
        PAUSE="0",
    )  # fmt: skip


def test_a_tpu_that_is_pre_empted_is_made_anew_and_the_run_resumed(tmp_path):
    assert tpu_vm(tmp_path, failures=1).returncode == 0
    words = [line.split()[4] for line in called(tmp_path) if "describe" not in line]
    once = ["create", "scp", "ssh", "ssh"]
    assert words == [*once, "delete", *once, "delete"]
    first, second = [line for line in called(tmp_path) if "bit-keras pretrain" in line]
    assert first == second
    command = first.partition("bit-keras pretrain ")[2].partition(" --project")[0].replace("'", "")
    options, _ = cli._parse(cli.COMMANDS["pretrain"], command.split())
    assert (options.strategy, options.tpu, options.resume) == ("tpu", "local", True)
    assert (options.output, options.batch_size) == ("/runs/m", 4096)


def test_a_wrong_flag_ends_the_tpu_launcher(tmp_path):
    done = tpu_vm(tmp_path, failures=9, state="READY", status=2)
    assert done.returncode == 2
    assert len((tmp_path / "tries").read_text().splitlines()) == 1


def test_a_slice_of_several_hosts_is_driven_by_the_first(tmp_path):
    assert tpu_vm(tmp_path, hosts=4).returncode == 0
    (trained,) = [line for line in called(tmp_path) if "bit-keras pretrain" in line]
    assert "--worker=0" in trained
    assert "TPU_NAME=bit-pretrain TPU_LOAD_LIBRARY=0 bit/bin/bit-keras" in trained
    assert "--tpu bit-pretrain" in trained


# data_service.py


@pytest.fixture
def data_service():
    """The address of a tf.data service with one worker, both of them processes of their own."""
    started = []

    def start(*words):
        command = [sys.executable, str(CLUSTER / "data_service.py"), *words]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        started.append(process)
        ready, _, _ = select.select([process.stdout], [], [], SECONDS)
        assert ready, f"data_service.py {words} says nothing"
        return process.stdout.readline()

    try:
        address = start("dispatcher").partition(": ")[2].strip()
        assert address.startswith("grpc://")
        assert start("worker", "--dispatcher", address, "--host", "localhost")
        yield address
    finally:
        for process in started:
            process.kill()
            process.wait(SECONDS)


def test_pre_training_reads_through_the_data_service(data_service, tmp_path):
    source = load_source(write_npz(tmp_path / "toy.npz", train=48))
    write_records(source, tmp_path / "shards", shards=3)
    records = load_source(f"tfrecord:{tmp_path / 'shards'}")
    batches = pretrain_batches(
        records, "train", Part(0, 1, 12), size=32, num_classes=3, seed=0, service=data_service
    )
    epoch = [{k: v.numpy() for k, v in batch.items()} for batch in batches.take(4)]
    labels = np.concatenate([batch["label"] for batch in epoch])
    images = np.concatenate([batch["image"] for batch in epoch])
    assert labels.sum(0).tolist() == [16, 16, 16]  # every example of an epoch once
    positions = np.concatenate([batch["position"] for batch in epoch])
    assert positions.tolist() == list(range(48))
    brightness = images.mean((1, 2, 3))
    dark, bright = labels[:, 0] == 1, labels[:, 1] == 1
    assert brightness[dark].max() < brightness[bright].min()

    other = pretrain_batches(  # another training on the same service is not given these images
        records, "train", Part(0, 1, 12), size=16, num_classes=3, seed=0, service=data_service
    )
    assert next(iter(other))["image"].shape == (12, 16, 16, 3)


def test_a_source_that_is_no_graph_cannot_be_served(tmp_path):
    source = load_source(write_npz(tmp_path / "toy.npz"))
    with pytest.raises(ValueError, match=r"Write it to record shards first: bit-keras data"):
        pretrain_batches(
            source, "train", Part(0, 1, 4), size=32, num_classes=3, seed=0, service="localhost:1"
        )


def test_a_data_service_worker_needs_its_dispatcher():
    done = run([sys.executable, CLUSTER / "data_service.py", "worker"])
    assert done.returncode == 2
    assert "--dispatcher HOST:PORT" in done.stderr
