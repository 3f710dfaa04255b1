import numpy as np
import pytest

pytest.importorskip("tensorflow_serving")
pytest.importorskip("uvicorn")

import grpc
import tensorflow as tf
from serving_toy import (
    CLASSES,
    arrays,
    assert_close,
    direct,
    encoded,
    images,
    model_dir,
    request_of,
    serving,
    stubs,
)
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
)

from bit_keras.serving.errors import InvalidArgumentError, TooLargeError
from bit_keras.serving.tensors import array_of, proto_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return model_dir(tmp_path_factory.mktemp("grpc") / "photos") / "1"


@pytest.fixture(scope="module")
def module(folder):
    return direct(folder)


@pytest.fixture(scope="module")
def server(folder):
    with serving(folder.parent, max_request_mb=1) as server:
        yield server


@pytest.fixture
def prediction(server):
    with stubs(server) as (prediction, _):
        yield prediction


@pytest.fixture
def models(server):
    with stubs(server) as (_, models):
        yield models


@pytest.mark.parametrize("shape", [(1, 8, 8), (5, 20, 12)])
def test_images_equal_direct_calls(prediction, module, shape):
    x = images(0, *shape)
    response = prediction.Predict(request_of({"images": x}), timeout=60)
    assert_close(arrays(response), module("serving_default", x))
    assert response.model_spec.name == "photos"
    assert response.model_spec.version.value == 1
    assert response.model_spec.signature_name == "serving_default"
    # Clients read the typed field, not the tensor's raw content.
    assert len(response.outputs["logits"].float_val) == CLASSES * shape[0]


def test_tensors_with_raw_content_are_understood(prediction, module):
    x = images(1, 2, 8, 8)
    request = request_of({})
    request.inputs["images"].CopyFrom(tf.make_tensor_proto(x))
    assert request.inputs["images"].tensor_content
    assert_close(arrays(prediction.Predict(request)), module("serving_default", x))


def test_encoded_images_and_an_output_filter(prediction, module):
    files = np.array([encoded(1), encoded(2, (9, 30), "JPEG")], object)
    request = request_of(
        {"image_bytes": files}, "serving_bytes", output_filter=["logits", "features"]
    )
    request.model_spec.version.value = 1
    expected = module("serving_bytes", files)
    del expected["probabilities"]
    assert_close(arrays(prediction.Predict(request)), expected)


ONE = np.full((1, 4, 4, 3), 0.5, np.float32)


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"name": "cats"}, "NOT_FOUND", "Servable not found for request: Latest(cats)"),
        ({"signature": "none"}, "INVALID_ARGUMENT", '"none" not found'),
        ({"inputs": {}}, "INVALID_ARGUMENT", "Received: none"),
        ({"inputs": {"x": ONE}}, "INVALID_ARGUMENT", "are images. Received: x"),
        ({"inputs": {"images": ONE[0]}}, "INVALID_ARGUMENT", "Received: (4, 4, 3)"),
        ({"inputs": {"images": ONE[:0]}}, "INVALID_ARGUMENT", "nothing of it empty"),
        ({"inputs": {"images": ONE.astype(int)}}, "INVALID_ARGUMENT", "float32. Received: int64"),
        ({"inputs": {"images": np.array([b"a"])}}, "INVALID_ARGUMENT", "Received: string"),
        ({"output_filter": ["loss"]}, "INVALID_ARGUMENT", "alias not found in signature: loss"),
        (
            {"signature": "serving_bytes", "inputs": {"image_bytes": np.array([b"%PDF"])}},
            "INVALID_ARGUMENT",
            "not a JPEG",
        ),
        ({"inputs": {"images": np.zeros((1, 400, 400, 3), np.float32)}}, "RESOURCE_EXHAUSTED", ""),
    ],
)
def test_bad_requests_are_refused_with_the_reason(prediction, change, code, message):
    request = request_of(**{"inputs": {"images": ONE}, **change})
    with pytest.raises(grpc.RpcError) as caught:
        prediction.Predict(request)
    assert caught.value.code() is grpc.StatusCode[code]
    assert message in caught.value.details()


def test_versions_and_labels_that_are_not_there(prediction):
    request = request_of({"images": ONE})
    request.model_spec.version.value = 9
    with pytest.raises(grpc.RpcError, match=r"Specific\(photos, 9\)"):
        prediction.Predict(request)
    request.model_spec.version_label = "best"
    with pytest.raises(grpc.RpcError, match="label: best"):
        prediction.Predict(request)


def test_what_modules_have_no_use_for_is_unimplemented(prediction, models):
    for call, request in (
        (prediction.Classify, classification_pb2.ClassificationRequest()),
        (models.HandleReloadConfigRequest, model_management_pb2.ReloadConfigRequest()),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call(request)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_metadata_has_the_signatures(prediction):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "photos"
    response = prediction.GetModelMetadata(request)
    found = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(found)
    assert response.model_spec.version.value == 1
    assert set(found.signature_def) >= {"serving_default", "serving_bytes"}
    assert found.signature_def["serving_bytes"].inputs["image_bytes"].dtype == tf.string

    request.metadata_field.append("licence")
    with pytest.raises(grpc.RpcError, match="Metadata field licence is not supported"):
        prediction.GetModelMetadata(request)


def test_status(models):
    request = get_model_status_pb2.GetModelStatusRequest()
    with pytest.raises(grpc.RpcError, match="Missing ModelSpec"):
        models.GetModelStatus(request)
    request.model_spec.name = "photos"
    (status,) = models.GetModelStatus(request).model_version_status
    assert (status.version, status.status.error_code) == (1, 0)
    assert status.state == get_model_status_pb2.ModelVersionStatus.AVAILABLE
    request.model_spec.name = "cats"
    with pytest.raises(grpc.RpcError, match="Could not find any versions of model cats"):
        models.GetModelStatus(request)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.arange(6).reshape(3, 2, 1),
        np.float64(2.5),
        np.array([b"a", b"\xff\0b"], object),
        np.array([True, False]),
        np.arange(3, dtype=np.uint8),
        np.zeros((0, 3), np.float32),
    ],
)
def test_arrays_survive_the_way_to_protos_and_back(array):
    array = np.asarray(array)
    found = array_of(proto_of(array))
    assert found.shape == array.shape
    assert found.dtype == array.dtype
    assert found.tolist() == array.tolist()


def test_a_small_message_cannot_ask_for_a_large_tensor():
    bomb = tf.make_tensor_proto(0.5, tf.float32, (1, 30_000, 30_000, 3))
    assert bomb.ByteSize() < 100
    with pytest.raises(TooLargeError, match="10800000000 bytes; the limit is 1000"):
        array_of(bomb, 1000)
    bomb.tensor_shape.dim[1].size = -1
    with pytest.raises(InvalidArgumentError, match="shape is not known"):
        array_of(bomb)
    bomb.dtype = 999
    with pytest.raises(InvalidArgumentError, match="cannot be read"):
        array_of(bomb)
    short = tf.make_tensor_proto(ONE)
    short.tensor_content = short.tensor_content[:10]
    with pytest.raises(InvalidArgumentError, match="cannot be read"):
        array_of(short)
