"""Classifies image files with a served module, by REST or by gRPC.

    bit-keras serve runs/photos/serving
    python examples/serving_client.py cat.jpg dog.png --model photos
    python examples/serving_client.py cat.jpg --model photos --protocol grpc

It speaks to `bit-keras serve` and to TensorFlow Serving alike. The module decodes and resizes the
images itself. For REST it needs requests, for gRPC: pip install tensorflow-serving-api
"""

import argparse
import base64
import random
import sys
import time
from collections.abc import Callable

SIGNATURE = "serving_bytes"


class Busy(Exception):  # noqa: N818
    """The server has too much to do: try again after a while."""


class Refused(Exception):  # noqa: N818
    """The server does not answer this request, and will not when it is repeated."""


def rest(args: argparse.Namespace) -> Callable[[bytes], list[float]]:
    """A function from an image file's bytes to probabilities, by REST."""
    import requests

    version = f"/versions/{args.version}" if args.version else ""
    url = f"http://{args.host}:{args.port or 8501}/v1/models/{args.model}{version}:predict"
    session = requests.Session()

    def predict(image: bytes) -> list[float]:
        body = {
            "signature_name": SIGNATURE,
            "instances": [{"b64": base64.b64encode(image).decode()}],
        }
        try:
            answer = session.post(url, json=body, timeout=args.timeout)
        except requests.RequestException as error:
            raise Busy(error) from error
        if answer.status_code in (429, 503):
            raise Busy(answer.text)
        if answer.status_code != 200:
            raise Refused(f"{answer.status_code}: {answer.text}")
        return answer.json()["predictions"][0]["probabilities"]

    return predict


def grpc(args: argparse.Namespace) -> Callable[[bytes], list[float]]:
    """A function from an image file's bytes to probabilities, by gRPC."""
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    channel = grpc.insecure_channel(f"{args.host}:{args.port or 8500}")
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    busy = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)

    def predict(image: bytes) -> list[float]:
        request = predict_pb2.PredictRequest(output_filter=["probabilities"])
        request.model_spec.name = args.model
        request.model_spec.signature_name = SIGNATURE
        if args.version:
            request.model_spec.version.value = args.version
        request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([image]))
        try:
            answer = stub.Predict(request, timeout=args.timeout)
        except grpc.RpcError as error:
            kind = Busy if error.code() in busy else Refused
            raise kind(f"{error.code().name}: {error.details()}") from error
        return list(answer.outputs["probabilities"].float_val)

    return predict


def patiently(predict: Callable[[bytes], list[float]], image: bytes, tries: int) -> list[float]:
    """Asks again when the server is busy, after longer and longer pauses."""
    for i in range(tries):
        try:
            return predict(image)
        except Busy:
            if i == tries - 1:
                raise
            time.sleep(random.uniform(0.5, 1) * 0.1 * 2**i)
    raise ValueError(f"`tries` must be at least 1. Received: {tries}")


def main() -> int:
    """Reads the flags, prints the best classes of each file; 1 if any was not answered."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="+", help="JPEG, PNG, GIF or BMP files")
    parser.add_argument("--model", required=True, help="name of the model")
    parser.add_argument("--version", type=int, help="version of the model; default: the newest")
    parser.add_argument("--protocol", choices=("rest", "grpc"), default="rest")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, help="default: 8501 for REST, 8500 for gRPC")
    parser.add_argument("--labels", help="file of class names, such as the module's labels.txt")
    parser.add_argument("--top", type=int, default=3, help="classes to print")
    parser.add_argument("--timeout", type=float, default=30, help="seconds for each try")
    parser.add_argument("--tries", type=int, default=6, help="while the server is busy")
    args = parser.parse_args()

    names = None
    if args.labels:
        with open(args.labels, encoding="utf-8") as stream:
            names = stream.read().splitlines()
    predict = (rest if args.protocol == "rest" else grpc)(args)
    failed = 0
    for path in args.images:
        try:
            with open(path, "rb") as stream:
                found = patiently(predict, stream.read(), args.tries)
        except (OSError, Busy, Refused) as error:
            print(f"{path}: {error}", file=sys.stderr)
            failed += 1
            continue
        best = sorted(range(len(found)), key=lambda i: -found[i])[: args.top]
        shown = (f"{names[i] if names else f'class {i}'} {found[i]:.1%}" for i in best)
        print(f"{path}  {', '.join(shown)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
