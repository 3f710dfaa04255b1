"""Sets TF_CONFIG from what Kubernetes or Slurm tells a process, and becomes the command.

    python tf_config.py bit-keras pretrain --strategy multi_worker …
    python tf_config.py                                # prints TF_CONFIG

Kubernetes, an Indexed Job with a headless Service: the Job sets JOB_COMPLETION_INDEX, its manifest
JOB_NAME, SERVICE and WORKERS. Slurm: srun sets SLURM_PROCID and the nodes and tasks of the step;
tasks must be distributed in blocks. Worker 0 is the chief. PORT is the first port.
"""

import json
import os
import re
import sys
from collections.abc import Mapping

PORT = 2222


def expand_nodes(nodes: str) -> list[str]:
    """The hosts of a Slurm node list: "a[01-03,07],b" → a01, a02, a03, a07, b."""
    hosts = []
    for item in re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\])+", nodes):
        found = [""]
        for text, ranges in re.findall(r"([^\[\]]+)|\[([^\[\]]*)\]", item):
            found = [host + one for host in found for one in ([text] if text else _range(ranges))]
        hosts += found
    if not hosts or nodes.count("[") != nodes.count("]"):
        raise ValueError(f"Not a Slurm node list. Received: {nodes!r}")
    return hosts


def _range(ranges: str) -> list[str]:
    numbers = []
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        if not first.isdecimal() or not (last or first).isdecimal():
            raise ValueError(f"Not a range of nodes. Received: {part!r}")
        numbers += [str(n).zfill(len(first)) for n in range(int(first), int(last or first) + 1)]
    return numbers


def expand_tasks(tasks: str) -> list[int]:
    """The tasks of each node: "2(x3),1" → 2, 2, 2, 1."""
    counts = []
    for part in tasks.split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if not found:
            raise ValueError(f"Not SLURM_TASKS_PER_NODE. Received: {tasks!r}")
        counts += [int(found[1])] * int(found[2] or 1)
    return counts


def from_slurm(environment: Mapping[str, str]) -> dict:
    """TF_CONFIG of a task of a Slurm job step."""
    nodes = environment.get("SLURM_STEP_NODELIST") or environment["SLURM_JOB_NODELIST"]
    step_tasks = environment.get("SLURM_STEP_TASKS_PER_NODE")
    hosts = expand_nodes(nodes)
    counts = expand_tasks(step_tasks or environment["SLURM_TASKS_PER_NODE"])
    if len(hosts) != len(counts):
        raise ValueError(f"{len(hosts)} nodes in {nodes!r}, tasks for {len(counts)}: {counts}")
    port = int(environment.get("PORT", PORT))
    workers = [f"{h}:{port + i}" for h, n in zip(hosts, counts, strict=True) for i in range(n)]
    return _config(workers, int(environment["SLURM_PROCID"]))


def from_kubernetes(environment: Mapping[str, str]) -> dict:
    """TF_CONFIG of a pod of an Indexed Job; pods are JOB-INDEX.SERVICE."""
    port = environment.get("PORT", PORT)
    job, service = environment["JOB_NAME"], environment["SERVICE"]
    workers = [f"{job}-{i}.{service}:{port}" for i in range(int(environment["WORKERS"]))]
    return _config(workers, int(environment["JOB_COMPLETION_INDEX"]))


def _config(workers: list[str], index: int) -> dict:
    if not 0 <= index < len(workers):
        raise ValueError(f"Worker {index} is not one of {len(workers)}: {', '.join(workers)}")
    return {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}


def tf_config(environment: Mapping[str, str]) -> dict:
    """TF_CONFIG from the environment of either."""
    for mark, maker in (("JOB_COMPLETION_INDEX", from_kubernetes), ("SLURM_PROCID", from_slurm)):
        if mark in environment:
            try:
                return maker(environment)
            except KeyError as error:
                raise ValueError(f"{mark} is set, but {error.args[0]} is not.") from None
    raise ValueError(
        "Neither JOB_COMPLETION_INDEX (a Kubernetes Indexed Job) nor SLURM_PROCID (srun) is set."
    )


def main(command: list[str]) -> None:
    try:
        text = json.dumps(tf_config(os.environ))
    except ValueError as error:
        sys.exit(f"tf_config.py: {error}")
    if not command:
        print(text)
        return
    os.environ["TF_CONFIG"] = text
    sys.stdout.flush()
    try:
        os.execvp(command[0], command)  # not a child: signals of the cluster reach the training
    except OSError as error:
        sys.exit(f"tf_config.py: {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
