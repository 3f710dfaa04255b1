"""The batched server beside direct calls of the same module with full batches, in one run.

    python -m benchmarks.serving [--arch=50x1] [--image_size=224] [--batch=8] [--seconds=15]

The server runs in a process of its own, as `bit-keras serve` does, and so do the clients, which
speak gRPC over loopback; direct calls are made in this process while the server is idle. Both take
turns, so that a busy machine slows both; what counts is the ratio. Direct calls have their images
in batches, one after the other; the server gets one image a request, makes the batches itself, and
computes two of them at a time, its default.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from bit_keras.text import table

MODEL = "bench"


def export(folder: Path, arch: str, image_size: int) -> None:
    """Exports a model with random weights and 1,000 classes: speed does not depend on them."""
    from bit_keras.backend import load_tensorflow

    load_tensorflow()
    from bit_keras import ResNetV2
    from bit_keras.export import export_module

    depth, width = arch.split("x")
    model = ResNetV2(int(depth), float(width), 1000)
    export_module(model, folder / "1", kind="serving", image_size=image_size)


def photographs(count: int, size: int) -> list[bytes]:
    """JPEG files of smooth noise, which take about as long to decode as photographs."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (count, size // 8 + 2, size // 8 + 2, 3)).astype(np.float32)
    images = tf.cast(tf.image.resize(noise, (size, size), "bicubic"), tf.uint8)
    return [tf.io.encode_jpeg(image, quality=90).numpy() for image in images]


@contextlib.contextmanager
def server(folder: Path, batch: int) -> Iterator[int]:
    """`bit-keras serve` in a process of its own; gives its gRPC port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bit_keras.cli", "serve", str(folder), f"--name={MODEL}",
         "--port=0", "--grpc_port=0", f"--max_batch_size={batch}", "--batch_timeout_micros=5000"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        found = re.search(r"gRPC at .*:(\d+)", line)
        if not found:
            raise RuntimeError(f"The server did not start: {line!r}")
        yield int(found[1])
    finally:
        process.terminate()
        process.wait()


def ask(port: int, files: list[bytes], clients: int, seconds: float) -> tuple[float, list[float]]:
    """Images/s and latencies of clients, each a thread that sends one image after the other."""
    from bit_keras.backend import load_tensorflow

    load_tensorflow()
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    requests = []
    for data in files:
        request = predict_pb2.PredictRequest(output_filter=["probabilities"])
        request.model_spec.name = MODEL
        request.model_spec.signature_name = "serving_bytes"
        request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([data]))
        requests.append(request)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        started = time.perf_counter()

        def client(number: int) -> list[float]:
            latencies: list[float] = []
            while time.perf_counter() - started < seconds:
                began = time.perf_counter()
                stub.Predict(requests[(number + len(latencies)) % len(requests)])
                latencies.append(time.perf_counter() - began)
            return latencies

        with ThreadPoolExecutor(clients) as pool:
            latencies = list(itertools.chain(*pool.map(client, range(clients))))
        return len(latencies) / (time.perf_counter() - started), latencies


class Direct:
    """The module called in this process with full batches of encoded images."""

    def __init__(self, folder: Path, files: list[bytes], batch: int) -> None:
        import tensorflow as tf

        self._module = tf.saved_model.load(str(folder / "1"))
        self._batches = [
            tf.constant(files[i : i + batch]) for i in range(0, len(files) - batch + 1, batch)
        ]
        self._batch = batch
        self.rate(0)

    def rate(self, seconds: float) -> tuple[float, list[float]]:
        """Images/s, and seconds of each batch."""
        signature = self._module.signatures["serving_bytes"]
        latencies: list[float] = []
        started = time.perf_counter()
        while not latencies or time.perf_counter() - started < seconds:
            began = time.perf_counter()
            batch = self._batches[len(latencies) % len(self._batches)]
            signature(image_bytes=batch)["probabilities"].numpy()
            latencies.append(time.perf_counter() - began)
        return len(latencies) * self._batch / (time.perf_counter() - started), latencies


def percentiles(latencies: list[float]) -> list[str]:
    """The 50th and the 99th percentile in milliseconds, as text."""
    return [f"{1000 * value:,.0f}" for value in np.percentile(latencies, (50, 99))]


def measure(folder: Path, args: argparse.Namespace) -> str:
    """The table."""
    files = photographs(4 * args.batch, args.image_size)
    direct = Direct(folder, files, args.batch)
    rates: dict[str, list[float]] = {"direct": [], "served": []}
    latencies: dict[str, list[float]] = {"direct": [], "served": []}
    spawn = multiprocessing.get_context("spawn")  # TensorFlow does not survive a fork
    with server(folder, args.batch) as port, ProcessPoolExecutor(1, spawn) as clients:

        def served(seconds: float) -> tuple[float, list[float]]:
            return clients.submit(ask, port, files, args.clients, seconds).result()

        served(1)  # warm-up
        for _ in range(args.rounds):
            for name, (rate, times) in (
                ("direct", direct.rate(args.seconds)),
                ("served", served(args.seconds)),
            ):
                rates[name].append(rate)
                latencies[name] += times
    ratios = [s / d for s, d in zip(rates["served"], rates["direct"], strict=True)]
    rows = [
        (
            {"direct": f"direct, batches of {args.batch}",
             "served": f"server, {args.clients} requests under way"}[name],
            f"{statistics.median(rates[name]):,.1f}",
            f"{min(rates[name]):,.1f}–{max(rates[name]):,.1f}",
            *percentiles(latencies[name]),
        )
        for name in rates
    ]  # fmt: skip
    header = ("", "images/s", "range", "p50 ms", "p99 ms")
    ratio = (
        f"served / direct: {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
    )
    return f"{table(header, rows, 'lrrrr')}\n{ratio}, median and range of {args.rounds} rounds"


def main() -> None:
    """Reads the flags, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="50x1", help="depth and width of the model")
    parser.add_argument("--image_size", type=int, default=224, help="side in pixels")
    parser.add_argument("--batch", type=int, default=8, help="images of a batch")
    parser.add_argument("--clients", type=int, help="requests under way; default: 3 batches")
    parser.add_argument("--seconds", type=float, default=15, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="turns of both")
    args = parser.parse_args()
    args.clients = args.clients or 3 * args.batch
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with tempfile.TemporaryDirectory() as room:
        folder = Path(room) / MODEL
        export(folder, args.arch, args.image_size)
        print(f"BiT-R{args.arch} at {args.image_size}², {os.cpu_count()} processors, load "
              f"{os.getloadavg()[0]:.1f}")  # fmt: skip
        print(measure(folder, args))


if __name__ == "__main__":
    main()
