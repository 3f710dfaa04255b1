"""A small module, a server of it in this process, and clients, for the tests of serving."""

import base64
import contextlib
import functools
import io
import json
import shutil
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import keras
import numpy as np
import tensorflow as tf
from PIL import Image
from tensorflow_serving.apis import model_service_pb2_grpc, predict_pb2, prediction_service_pb2_grpc

from bit_keras.export import export_module
from bit_keras.resnet import ResNetV2
from bit_keras.serve_options import ServeOptions
from bit_keras.serving.server import Server
from bit_keras.serving.tensors import proto_of

CLASSES, SIZE = 3, 32


_ROOM = tempfile.TemporaryDirectory()


@functools.cache
def module(seed=0):
    """A module, another one for every seed; made once in a process, to be copied."""
    return write_module(Path(_ROOM.name) / str(seed), seed)


def model_dir(folder, seed=0):
    """Makes a folder of versions with version 1; returns it."""
    shutil.copytree(module(seed), folder / "1")
    return folder


def write_module(folder, seed=0):
    """Exports a small model with a head that tells images apart; returns the folder."""
    keras.utils.set_random_seed(seed)
    model = ResNetV2(26, 0.25, num_classes=CLASSES)
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if "head" in weight.path:
            weight.assign(rng.standard_normal(weight.shape))
    return export_module(model, folder, kind="serving", image_size=SIZE)


@contextlib.contextmanager
def serving(model_dir, **options):
    """A server at free ports."""
    # Times at which a busy machine does not fail a test.
    patient = {"poll_seconds": 0.1, "drain_seconds": 60, "timeout": 300}
    options = {"port": 0, "grpc_port": 0, **patient, **options}
    with Server(ServeOptions(str(model_dir), **options)) as server:
        yield server


def encoded(seed, size=(24, 40), kind="PNG"):
    """An image file of noise, another one for every seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def images(seed, *shape):
    """float32 in [0, 1], other ones for every seed."""
    return np.random.default_rng(seed).random((*shape, 3), np.float32)


def b64(data):
    return {"b64": base64.b64encode(data).decode()}


def call(server, path, body=None, method=None):
    """(status, parsed answer) of a REST request; a body may be bytes or what JSON can say."""
    data = json.dumps(body).encode() if body is not None and not isinstance(body, bytes) else body
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}{path}", data, method=method or ("POST" if data else "GET")
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, _parsed(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, _parsed(error.read())


def _parsed(body):
    try:
        return json.loads(body)
    except ValueError:
        return body.decode()


def predict(server, body, name="photos"):
    return call(server, f"/v1/models/{name}:predict", body)


@contextlib.contextmanager
def stubs(server):
    """The official stubs: PredictionService and ModelService."""
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", options) as channel:
        yield (
            prediction_service_pb2_grpc.PredictionServiceStub(channel),
            model_service_pb2_grpc.ModelServiceStub(channel),
        )


def request_of(inputs, signature="", name="photos", **fields):
    request = predict_pb2.PredictRequest(
        inputs={key: proto_of(np.asarray(value)) for key, value in inputs.items()}, **fields
    )
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    return request


def arrays(response):
    return {name: tf.make_ndarray(tensor) for name, tensor in response.outputs.items()}


def direct(folder):
    """The signatures of a module, called without a server: arrays → arrays."""
    signatures = tf.saved_model.load(str(folder)).signatures

    def run(signature, value):
        (name,) = signatures[signature].structured_input_signature[1]
        outputs = signatures[signature](**{name: tf.constant(value)})
        return {key: output.numpy() for key, output in outputs.items()}

    run.module = signatures  # keeps it
    return run


def assert_close(found, expected, tolerance=1e-5):
    assert found.keys() == expected.keys()
    for name in expected:
        atol = tolerance * max(1.0, np.abs(expected[name]).max())
        np.testing.assert_allclose(
            np.asarray(found[name]), expected[name], rtol=0, atol=atol, err_msg=name
        )
