import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow_serving")
pytest.importorskip("uvicorn")

from serving_toy import direct, encoded, model_dir, serving

EXAMPLE = Path(__file__).parents[1] / "examples" / "serving_client.py"
LABELS = ["cat", "dog", "Käse"]


def run(*arguments):
    return subprocess.run(
        [sys.executable, EXAMPLE, *map(str, arguments)],
        capture_output=True, text=True, timeout=300,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return model_dir(tmp_path_factory.mktemp("example") / "photos")


@pytest.fixture(scope="module")
def server(folder):
    with serving(folder) as server:
        yield server


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.jpg"]
    paths[0].write_bytes(encoded(1))
    paths[1].write_bytes(encoded(2, (50, 31), "JPEG"))
    (tmp_path / "labels.txt").write_text("\n".join(LABELS), encoding="utf-8")
    return paths


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_both_protocols_print_what_the_module_says(folder, server, files, protocol):
    port = server.port if protocol == "rest" else server.grpc_port
    bad = files[0].with_name("bad.png")
    bad.write_bytes(b"no image")
    found = run(
        *files, bad, files[0].with_name("none.png"), "--model=photos", f"--protocol={protocol}",
        f"--port={port}", f"--labels={files[0].with_name('labels.txt')}", "--top=1", "--version=1",
    )  # fmt: skip
    assert found.returncode == 1  # for the two that are no images
    data = np.array([path.read_bytes() for path in files], object)
    probabilities = direct(folder / "1")("serving_bytes", data)["probabilities"]
    lines = [
        f"{path}  {LABELS[row.argmax()]} {row.max():.1%}"
        for path, row in zip(files, probabilities, strict=True)
    ]
    assert found.stdout.splitlines() == lines
    told = found.stderr.splitlines()
    assert any("bad.png" in line and "not a JPEG" in line for line in told)
    assert any("none.png" in line and "No such file" in line for line in told)


def test_a_busy_server_is_asked_again(folder, files):
    with serving(folder, max_batch_size=1, max_enqueued_batches=1, num_batch_threads=1) as server:
        arguments = (*files * 20, "--model=photos", f"--port={server.port}", "--tries=12")
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(lambda _: run(*arguments), range(2)))
    for one in found:
        assert one.returncode == 0, one.stderr
        assert len(one.stdout.splitlines()) == 40


def test_no_server_is_told(files):
    found = run(files[0], "--model=photos", "--port=9", "--tries=1")
    assert found.returncode == 1
    assert "refused" in found.stderr.lower()


def test_help():
    found = run("--help")
    assert found.returncode == 0
    assert "--protocol {rest,grpc}" in found.stdout
