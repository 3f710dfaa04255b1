import base64
import http.client
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("tensorflow_serving")
pytest.importorskip("uvicorn")

from serving_toy import (
    CLASSES,
    assert_close,
    b64,
    call,
    direct,
    encoded,
    images,
    model_dir,
    predict,
    serving,
)

MEGABYTE = 10**6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return model_dir(tmp_path_factory.mktemp("rest") / "photos") / "1"


@pytest.fixture(scope="module")
def module(folder):
    return direct(folder)


@pytest.fixture(scope="module")
def server(folder):
    with serving(folder.parent, max_request_mb=1, max_batch_size=8) as server:
        yield server


def named(rows):
    """[{output: value}, …] → {output: values}"""
    return {name: [row[name] for row in rows] for name in rows[0]}


# -- answers


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 20, 12)])
def test_rows_and_columns_equal_direct_calls(server, module, shape):
    x = images(0, *shape)
    expected = module("serving_default", x)
    status, answer = predict(server, {"instances": x.tolist()})
    assert status == 200
    assert_close(named(answer["predictions"]), expected)
    status, answer = predict(server, {"instances": [{"images": row} for row in x.tolist()]})
    assert_close(named(answer["predictions"]), expected)
    for inputs in (x.tolist(), {"images": x.tolist()}):
        status, answer = predict(server, {"inputs": inputs, "signature_name": "serving_default"})
        assert status == 200
        assert_close(answer["outputs"], expected)


def test_base64_images_of_different_sizes_equal_direct_calls(server, module):
    files = [encoded(1), encoded(2, (50, 9)), encoded(3, (16, 16), "JPEG")]
    expected = module("serving_bytes", np.array(files, object))
    for rows in ([b64(f) for f in files], [{"image_bytes": b64(f)} for f in files]):
        status, answer = predict(server, {"signature_name": "serving_bytes", "instances": rows})
        assert status == 200
        assert_close(named(answer["predictions"]), expected)
    body = {"signature_name": "serving_bytes", "inputs": {"image_bytes": [b64(f) for f in files]}}
    status, answer = predict(server, body)
    assert_close(answer["outputs"], expected)


def test_more_examples_than_a_batch_come_back_in_their_order(server, module):
    x = images(4, 19, 8, 8)
    status, answer = predict(server, {"inputs": x.tolist()})
    assert status == 200
    assert_close(answer["outputs"], module("serving_default", x))


def test_base64_with_line_breaks_and_without_padding(server, module):
    data = encoded(5)
    text = base64.encodebytes(data).decode().rstrip("\n=")
    body = {"signature_name": "serving_bytes", "instances": [{"b64": text}]}
    status, answer = predict(server, body)
    assert status == 200
    assert_close(named(answer["predictions"]), module("serving_bytes", np.array([data], object)))


# -- status, metadata, health, metrics


def test_a_client_of_the_documented_format_finds_its_way(server):
    """Reads what https://www.tensorflow.org/tfx/serving/api_rest shows, key by key."""
    status, answer = call(server, "/v1/models/photos")
    assert status == 200
    assert answer == {
        "model_version_status": [
            {
                "version": "1",
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            }
        ]
    }
    assert call(server, "/v1/models/photos/versions/1") == (200, answer)

    status, answer = call(server, "/v1/models/photos/versions/1/metadata")
    assert answer["model_spec"] == {"name": "photos", "version": "1", "signature_name": ""}
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    signature = signatures["serving_default"]
    assert signature["method_name"] == "tensorflow/serving/predict"
    assert signature["inputs"]["images"]["dtype"] == "DT_FLOAT"
    dims = [d["size"] for d in signature["inputs"]["images"]["tensor_shape"]["dim"]]
    assert dims == ["-1", "-1", "-1", "3"]
    assert set(signature["outputs"]) == {"logits", "probabilities", "features"}
    assert signatures["serving_bytes"]["inputs"]["image_bytes"]["dtype"] == "DT_STRING"

    body = {
        "signature_name": "serving_bytes",
        "instances": [{"image_bytes": {"b64": base64.b64encode(encoded(0)).decode()}}],
    }
    for path in ("", "/versions/1"):
        status, answer = call(server, f"/v1/models/photos{path}:predict", body)
        assert status == 200
        assert len(answer["predictions"]) == 1
        assert len(answer["predictions"][0]["probabilities"]) == CLASSES


def test_health_and_metrics(server):
    assert call(server, "/healthz") == (200, "ok\n")
    predict(server, {"instances": images(0, 1, 8, 8).tolist()})
    predict(server, {"instances": []})
    predict(server, {"instances": [1]}, name="nobody")
    status, text = call(server, "/monitoring/prometheus/metrics")
    assert status == 200
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")

    def value(name, **labels):
        shown = ",".join(f'{key}="{labels[key]}"' for key in sorted(labels))
        return float(values[f"bit_keras_serving_{name}{{{shown}}}"])

    assert value("requests_total", model="photos", api="REST", code="OK") >= 1
    assert value("requests_total", model="photos", api="REST", code="INVALID_ARGUMENT") >= 1
    assert value("requests_total", model="", api="REST", code="NOT_FOUND") >= 1
    assert value("batch_size_count", model="photos", signature="serving_default") >= 1
    assert value("request_seconds_count", model="photos", api="REST") >= 2
    assert value("version_state", model="photos", version="1", state="AVAILABLE") == 1
    assert value("pending_examples", model="photos", signature="serving_default") == 0
    assert float(values["bit_keras_serving_in_flight_bytes"]) == 0
    assert "nobody" not in text


# -- refusals

ONE = [[[[0.5, 0.5, 0.5]]]]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "JSON Parse error"),
        (b"\xff\xfe", "JSON Parse error"),
        (b"[" * 100_000, "JSON Parse error"),
        ([], "Is not object"),
        ({}, "Missing 'inputs' or 'instances' key"),
        ({"instances": ONE, "inputs": ONE}, "Only one of"),
        ({"instances": []}, "at least one value"),
        ({"instances": 3}, "to be a list"),
        ({"instances": ONE, "signature_name": 3}, "must be a string"),
        ({"instances": ONE, "signature_name": "none"}, '"none" not found in signature def'),
        ({"instances": [[1, 2, 3]]}, r"shape (None, None, None, 3)"),
        ({"instances": [[[[1, 2, 3, 4]]]]}, r"Received: (1, 1, 1, 4)"),
        ({"instances": [[[]]]}, "shape"),
        ({"instances": [[[[1, 2, None]]]]}, "is not of type: float32"),
        ({"instances": [[[["1", "2", "3"]]]]}, "is not of type: float32"),
        ({"instances": [[[[True, False, True]]]]}, "is not of type: float32"),
        ({"instances": [[[[1e300, 0, 0]]]]}, "without loss"),
        ({"instances": [*ONE, [[[1, 2, 3]], [[1, 2, 3]]]]}, "different sizes"),
        ({"instances": [{"images": ONE[0]}, ONE[0]]}, "process element: 1"),
        ({"instances": [{"pictures": ONE[0]}]}, "must be equal to: images. Received: pictures"),
        ({"inputs": {"pictures": ONE}}, "must be equal to: images"),
        ({"signature_name": "serving_bytes", "instances": [7]}, "is not text"),
        ({"signature_name": "serving_bytes", "instances": [{"b64": "$$"}]}, "base64"),
        ({"signature_name": "serving_bytes", "instances": [b64(b"%PDF")]}, "not a JPEG"),
        ({"signature_name": "serving_bytes", "instances": [b64(encoded(0)[:60])]}, "Invalid PNG"),
        ({"signature_name": "serving_bytes", "inputs": b64(encoded(0))}, "shape (None,)"),
    ],
)
def test_bad_requests_are_refused_with_the_reason(server, body, message):
    status, answer = predict(server, body)
    assert status == 400
    assert list(answer) == ["error"]
    assert message in answer["error"]
    assert "Traceback" not in answer["error"]


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/v1/models/cats", None, 404, "Could not find any versions of model cats"),
        ("/v1/models/cats:predict", {"instances": ONE}, 404, "request: Latest(cats)"),
        ("/v1/models/cats/metadata", None, 404, "Servable not found"),
        ("/v1/models/photos/versions/7", None, 404, "Could not find version 7 of model photos"),
        (
            "/v1/models/photos/versions/7:predict",
            {"instances": ONE},
            404,
            "Servable not found for request: Specific(photos, 7)",
        ),
        ("/v1/models/photos/labels/best:predict", {"instances": ONE}, 404, "label: best"),
        (f"/v1/models/photos/versions/{10**30}", None, 400, "to numeric"),
        ("/v1/models", None, 400, "Missing model name"),
        ("/v1/models/photos:predict", None, 400, "Malformed request: GET"),
        ("/v1/models/photos", {"instances": ONE}, 400, "Malformed request: POST"),
        ("/v1/models/photos:classify", {"examples": []}, 501, "use :predict"),
    ],
)
def test_what_is_not_there_is_told(server, path, body, status, message):
    found, answer = call(server, path, body)
    assert found == status
    assert message in answer["error"]


def test_other_methods_are_refused(server):
    assert call(server, "/v1/models/photos", method="DELETE")[0] == 400
    assert call(server, "/healthz", b"x", method="POST")[0] == 405


def test_too_large_bodies_are_refused_before_they_are_read(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.putrequest("POST", "/v1/models/photos:predict")
    connection.putheader("Content-Length", str(2000 * MEGABYTE))
    connection.endheaders(b"{")
    answer = connection.getresponse()
    assert answer.status == 413
    assert "above the limit of 1000000 bytes" in json.loads(answer.read())["error"]

    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    chunks = (b" " * (MEGABYTE // 4) for _ in range(5))
    connection.request("POST", "/v1/models/photos:predict", chunks, encode_chunked=True,
                       headers={"Transfer-Encoding": "chunked"})  # fmt: skip
    assert connection.getresponse().status == 413
    assert predict(server, {"instances": images(0, 1, 8, 8).tolist()})[0] == 200


def test_one_bad_image_fails_alone(server, module):
    """Requests that come together are one batch, which a module answers or refuses as a whole."""
    files = [encoded(i) if i % 4 else b"no image" for i in range(24)]
    bodies = [{"signature_name": "serving_bytes", "inputs": [b64(f)]} for f in files]
    with ThreadPoolExecutor(24) as pool:
        found = list(pool.map(lambda body: predict(server, body), bodies))
    for file, (status, answer) in zip(files, found, strict=True):
        if file == b"no image":
            assert (status, "not a JPEG" in answer["error"]) == (400, True)
        else:
            expected = module("serving_bytes", np.array([file], object))
            assert_close(answer["outputs"], expected)
