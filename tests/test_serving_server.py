import dataclasses
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("tensorflow_serving")
pytest.importorskip("uvicorn")

from serving_toy import call, images, model_dir, predict, serving

from bit_keras import cli
from bit_keras.serve_options import ServeOptions
from bit_keras.serving.server import Server


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return model_dir(tmp_path_factory.mktemp("server") / "photos")


class Remote:
    """Where a server in another process listens."""

    def __init__(self, line):
        found = re.search(r"http://127\.0\.0\.1:(\d+)/v1/models/photos and gRPC at .*:(\d+)", line)
        self.port, self.grpc_port = map(int, found.groups())


@pytest.fixture
def command(folder):
    """`bit-keras serve` in a process of its own, and where it listens."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bit_keras.cli", "serve", folder, "--port=0", "--grpc-port=0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip
    line = process.stdout.readline()
    assert line.startswith("Serving photos, version 1: "), process.stderr.read()
    yield process, Remote(line)
    process.kill()
    process.wait()


def test_sigterm_lets_requests_finish(command):
    process, server = command
    body = {"inputs": images(0, 16, 128, 128).tolist()}  # takes a while
    answers = []
    client = threading.Thread(target=lambda: answers.append(predict(server, body)))
    client.start()
    end = time.monotonic() + 60
    while "pending_examples{" not in (metrics := call(server, METRICS)[1]) or not pending(metrics):
        assert time.monotonic() < end
        assert client.is_alive(), answers
    process.send_signal(signal.SIGTERM)
    client.join()
    output, errors = process.communicate(timeout=60)
    assert [status for status, _ in answers] == [200], errors
    assert len(answers[0][1]["outputs"]["logits"]) == 16
    assert process.returncode == 0
    assert "requests under way are finished" in output
    assert "Traceback" not in errors
    with pytest.raises(OSError, match="refused"):
        call(server, "/healthz")


METRICS = "/monitoring/prometheus/metrics"


def pending(metrics):
    line = next(x for x in metrics.splitlines() if x.startswith("bit_keras_serving_pending"))
    return float(line.split()[-1])


def test_the_documentation_names_flags_that_exist():
    text = (Path(__file__).parents[1] / "docs" / "serving.md").read_text("utf-8")
    local = text[text.index("## The local server") : text.index("### Metrics")]
    flags = set(re.findall(r"--(\w+)", local)) - {"help"}
    assert flags
    assert flags <= {field.name for field in dataclasses.fields(ServeOptions)}


def test_ports_that_are_taken(folder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for flag in ("port", "grpc_port"):
            options = {"port": 0, "grpc_port": 0, flag: port}
            with pytest.raises(OSError, match=f"127.0.0.1:{port}: another.*--{flag}"):
                with Server(ServeOptions(str(folder), **options)):
                    pass
    with serving(folder) as server, pytest.raises(OSError, match="--grpc_port"):
        with serving(folder, grpc_port=server.grpc_port):
            pass


def test_a_model_that_cannot_be_loaded_is_told_at_once(tmp_path, capsys):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"damaged")
    assert cli.run(["serve", str(tmp_path), "--port=0", "--grpc_port=0"]) == 1
    told = capsys.readouterr().err
    assert "can be served. version 1: " in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["serve"], 2, "model_dir is required"),
        (["serve", "x", "--port=70000"], 2, "ports end at 65535"),
        (["serve", "x", "--timeout=0"], 2, "timeout must be above 0"),
        (["serve", "x", "--max-batch-size=0"], 2, "max_batch_size"),
        (["serve", "x", "--max-pending-mb=8"], 2, "at least max_request_mb"),
        (["serve", "/no/where"], 1, "There is no folder /no/where"),
    ],
)
def test_wrong_command_lines(arguments, status, message, capsys):
    assert cli.run(arguments) == status
    assert message in capsys.readouterr().err


def test_a_missing_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "bit_keras.serving.server")
    assert cli.run(["serve", "x"]) == 1
    assert "pip install 'bit-keras[serving]'" in capsys.readouterr().err


def test_help_does_not_import_tensorflow():
    code = (
        "import sys; from bit_keras import cli; status = cli.run(['serve', '--help']);"
        "assert status == 0 and not {'tensorflow', 'keras', 'grpc', 'uvicorn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
