import asyncio
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("tensorflow_serving")
pytest.importorskip("uvicorn")

import grpc
import psutil
from serving_toy import (
    arrays,
    assert_close,
    b64,
    call,
    direct,
    encoded,
    images,
    model_dir,
    predict,
    request_of,
    serving,
    stubs,
)

from bit_keras.serving.batching import Batcher
from bit_keras.serving.configs import BatchingParameters
from bit_keras.serving.errors import InvalidArgumentError, OverloadedError, ServingError
from bit_keras.serving.metrics import Metrics


class Double:
    """A signature that doubles numbers: slow where told, refusing negative ones."""

    name = "double"

    def __init__(self, seconds=0.0):
        self.seconds = seconds
        self.batches = []

    def run(self, inputs):
        self.batches.append(inputs["x"].tolist())
        time.sleep(self.seconds)
        if np.any(inputs["x"] < 0):
            raise InvalidArgumentError("negative")
        if np.any(inputs["x"] == 13):
            raise ServingError("broken")
        return {"y": inputs["x"] * 2}


def together(signature, inputs, **parameters):
    """The answers to requests that come at the same time; errors as they are."""
    parameters = {"max_batch_size": 4, "batch_timeout_micros": 20_000, **parameters}

    async def run():
        batcher = Batcher(BatchingParameters(**parameters), Metrics(), "model")
        try:
            return await asyncio.gather(
                *(batcher.run(signature, {"x": np.array(x)}) for x in inputs),
                return_exceptions=True,
            )
        finally:
            assert not batcher._queues
            assert not +batcher._pending
            batcher.close()

    return [x if isinstance(x, Exception) else x["y"].tolist() for x in asyncio.run(run())]


def test_requests_share_batches_up_to_the_limit():
    signature = Double()
    assert together(signature, [[1], [2], [3], [4], [5]]) == [[2], [4], [6], [8], [10]]
    assert signature.batches == [[1, 2, 3, 4], [5]]


def test_a_request_is_not_torn_apart_unless_it_is_larger_than_a_batch():
    signature = Double()
    assert together(signature, [[1, 2, 3], [4, 5], list(range(20, 30))])[:2] == [[2, 4, 6], [8, 10]]
    assert sorted(map(len, signature.batches)) == [2, 2, 3, 4, 4]
    assert together(Double(), [list(range(10))])[0] == list(range(0, 20, 2))


def test_shapes_do_not_mix():
    signature = Double()
    assert together(signature, [[[1, 2]], [[3]], [[4, 5]]]) == [[[2, 4]], [[6]], [[8, 10]]]
    assert sorted(signature.batches) == [[[1, 2], [4, 5]], [[3]]]


def test_an_incomplete_batch_waits_no_longer_than_told():
    started = time.monotonic()
    together(Double(), [[1]], batch_timeout_micros=200_000)
    assert 0.2 <= time.monotonic() - started < 5


def test_a_refused_request_fails_alone_and_a_broken_batch_as_a_whole():
    found = together(Double(), [[1], [-2], [3], [4], [-5]])
    assert [found[i] for i in (0, 2, 3)] == [[2], [6], [8]]
    assert all(isinstance(found[i], InvalidArgumentError) for i in (1, 4))
    found = together(Double(), [[1], [13]])
    assert [str(x) for x in found] == ["broken", "broken"]


def test_the_queue_is_bounded():
    signature = Double(0.05)
    found = together(
        signature, [[i] for i in range(20)], max_enqueued_batches=2, num_batch_threads=1
    )
    refused = [x for x in found if isinstance(x, OverloadedError)]
    assert len(refused) == 12
    assert "8 examples of model wait already; at most 8 may" in str(refused[0])
    assert [x for x in found if not isinstance(x, Exception)] == [[2 * i] for i in range(8)]
    (large,) = together(signature, [list(range(9))], max_enqueued_batches=2)
    assert isinstance(large, InvalidArgumentError)


def test_a_client_that_leaves_leaves_nothing_behind():
    signature = Double(0.05)

    async def run():
        parameters = BatchingParameters(1, 0, 1, 16)
        batcher = Batcher(parameters, Metrics(), "model")
        tasks = [
            asyncio.create_task(batcher.run(signature, {"x": np.array([i])})) for i in range(5)
        ]
        await asyncio.sleep(0.01)
        for task in tasks[:4]:
            task.cancel()
        assert (await tasks[4])["y"].tolist() == [8]
        assert not batcher._queues
        assert not +batcher._pending
        batcher.close()

    asyncio.run(run())
    assert signature.batches == [[0], [4]]


# -- a whole server


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return model_dir(tmp_path_factory.mktemp("batching") / "photos") / "1"


SHAPES = ((8, 8), (12, 8), (16, 16), (9, 21), (32, 32))


def storm(server, module, count, clients):
    """Sends requests of all kinds from many clients; every answer must be that of its request."""
    cases = []
    for seed in range(60):
        shape = SHAPES[seed % len(SHAPES)]
        x = images(seed, 1 + seed % 3, *shape)
        data = np.array([encoded(seed, shape)], object)
        cases.append(("images", x, module("serving_default", x)))
        cases.append(("image_bytes", data, module("serving_bytes", data)))
    signatures = {"images": "serving_default", "image_bytes": "serving_bytes"}

    def ask(i):
        key, value, expected = cases[random.Random(i).randrange(len(cases))]
        if i % 4:
            request = request_of({key: value}, signatures[key])
            found = arrays(prediction.Predict(request, timeout=120))
        else:
            inputs = value.tolist() if key == "images" else [b64(data) for data in value]
            body = {"signature_name": signatures[key], "inputs": inputs}
            status, answer = predict(server, body)
            assert status == 200, answer
            found = answer["outputs"]
        assert_close(found, expected, 1e-4)
        return 1

    with stubs(server) as (prediction, _), ThreadPoolExecutor(clients) as pool:
        assert sum(pool.map(ask, range(count))) == count


def test_mixed_requests_of_many_clients_get_their_own_answers(folder):
    with serving(folder.parent) as server:
        storm(server, direct(folder), 300, 16)
        _, text = call(server, "/monitoring/prometheus/metrics")
    sums = {}
    for line in text.splitlines():
        name, _, value = line.rpartition(" ")
        if name.startswith("bit_keras_serving_batch_size_"):
            key = name.split("{")[0].rsplit("_", 1)[1]
            sums[key] = sums.get(key, 0) + float(value) * (key in ("sum", "count"))
    assert sums["count"] < sums["sum"]  # some did share batches


@pytest.mark.long
def test_ten_thousand_mixed_requests_lose_and_swap_nothing(folder):
    with serving(folder.parent) as server:
        storm(server, direct(folder), 10_000, 32)


def test_overload_is_refused_on_both_ways_and_what_is_answered_is_right(folder):
    module = direct(folder)
    x = images(0, 4, 64, 64)
    expected = module("serving_default", x)
    limits = {"max_batch_size": 4, "max_enqueued_batches": 1, "num_batch_threads": 1}
    with serving(folder.parent, **limits) as server, stubs(server) as (prediction, _):

        def rpc(_):
            try:
                assert_close(arrays(prediction.Predict(request_of({"images": x}))), expected)
            except grpc.RpcError as error:
                return error.code().name
            return "OK"

        def rest(_):
            status, answer = predict(server, {"inputs": x.tolist()})
            if status == 200:
                assert_close(answer["outputs"], expected)
            return status

        with ThreadPoolExecutor(24) as pool:
            codes = set(pool.map(rpc, range(48)))
            statuses = set(pool.map(rest, range(48)))
        assert codes == {"OK", "RESOURCE_EXHAUSTED"}
        assert statuses == {200, 429}
        # and it goes on as if nothing had been
        assert rpc(0) == "OK"
        assert rest(0) == 200


def test_requests_and_bytes_under_way_are_bounded(folder):
    limits = {"max_requests": 3, "max_request_mb": 2, "max_pending_mb": 4}
    with serving(folder.parent, **limits, timeout=20) as server:
        slow = [slow_post(server, 1_900_000) for _ in range(2)]
        wait_for(lambda: in_flight(server) == 3_800_000)
        status, answer = predict(server, {"inputs": images(0, 1, 64, 64).tolist()})
        assert (status, "bytes are under way" in answer["error"]) == (429, True)
        slow.append(slow_post(server, 1000))
        wait_for(lambda: in_flight(server) == 3_801_000)
        status, answer = predict(server, {"inputs": images(0, 1, 4, 4).tolist()})
        assert (status, "3 requests are under way" in answer["error"]) == (429, True)
        for connection in slow:  # clients that leave give back what they had taken
            connection.close()
        wait_for(lambda: in_flight(server) == 0)
        assert predict(server, {"inputs": images(0, 1, 64, 64).tolist()})[0] == 200


def test_a_slow_client_is_given_up(folder):
    with serving(folder.parent, timeout=0.3) as server:
        connection = slow_post(server, 1000)
        answer = connection.getresponse()
        assert answer.status == 504
        assert b"No answer within 0.3 s" in answer.read()
        wait_for(lambda: in_flight(server) == 0)


def slow_post(server, size):
    """A request that announces a body and sends only its beginning."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.putrequest("POST", "/v1/models/photos:predict")
    connection.putheader("Content-Length", str(size))
    connection.endheaders(b"{")
    return connection


def in_flight(server):
    _, text = call(server, "/monitoring/prometheus/metrics")
    line = next(x for x in text.splitlines() if x.startswith("bit_keras_serving_in_flight"))
    return float(line.split()[1])


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.long
def test_a_flood_does_not_make_memory_grow(folder):
    limits = {"max_batch_size": 4, "max_enqueued_batches": 1, "num_batch_threads": 1}
    x = images(0, 2, 224, 224)
    with serving(folder.parent, **limits) as server, stubs(server) as (prediction, _):
        request = request_of({"images": x})
        stop = threading.Event()
        codes = []

        def flood(_):
            while not stop.is_set():
                try:
                    prediction.Predict(request)
                    codes.append("OK")
                except grpc.RpcError as error:
                    codes.append(error.code().name)

        process = psutil.Process()
        with ThreadPoolExecutor(32) as pool:
            done = [pool.submit(flood, i) for i in range(32)]
            time.sleep(8)  # buffers and threads come into being
            before, seen = process.memory_info().rss, len(codes)
            time.sleep(15)
            grown = process.memory_info().rss - before
            stop.set()
            assert all(task.result() is None for task in done)
    assert set(codes) == {"OK", "RESOURCE_EXHAUSTED"}
    assert codes[seen:].count("RESOURCE_EXHAUSTED") > 50
    assert grown < 100e6
