"""The gRPC interface of TensorFlow Serving: PredictionService and ModelService, official stubs."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import AsyncIterator
from typing import Any

import grpc
from tensorflow_serving.apis import (
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from bit_keras.serving import protos
from bit_keras.serving.errors import InvalidArgumentError, ServingError
from bit_keras.serving.predictor import Predictor, Spec
from bit_keras.serving.servable import DEFAULT_SIGNATURE
from bit_keras.serving.tensors import array_of, proto_of


def add_services(server: Any, predictor: Predictor) -> None:
    """Adds both services to a grpc.aio server."""
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        Prediction(predictor), server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(Models(predictor), server)


@contextlib.asynccontextmanager
async def _errors(context: Any) -> AsyncIterator[None]:
    """Turns an error into the status of the call."""
    try:
        yield
    except ServingError as error:
        await context.abort(grpc.StatusCode[error.code], str(error))
    except (grpc.aio.AbortError, grpc.RpcError):
        raise
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        await context.abort(grpc.StatusCode.INTERNAL, type(error).__name__)


def _spec(request: Any) -> Spec:
    spec = request.model_spec
    version = spec.version.value if spec.HasField("version") else None
    return Spec(spec.name, version, spec.version_label)


class Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata; the rest is UNIMPLEMENTED."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    async def Predict(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answers a PredictRequest."""
        spec = _spec(request)
        async with _errors(context):
            with (
                self._predictor.counted(spec.name, "GRPC"),
                self._predictor.budget.request() as take,
            ):
                take(request.ByteSize())
                return await self._predict(request, spec)

    async def _predict(self, request: Any, spec: Spec) -> Any:
        version, servable = self._predictor.resolve(spec)
        signature = servable.signature(request.model_spec.signature_name)
        limit = self._predictor.budget.max_request_bytes
        inputs = {name: array_of(tensor, limit) for name, tensor in request.inputs.items()}
        outputs = await self._predictor.run(spec.name, signature, inputs)
        wanted = list(request.output_filter) or list(outputs)
        if unknown := [name for name in wanted if name not in outputs]:
            raise InvalidArgumentError(
                f"output tensor alias not found in signature: {unknown[0]} Outputs expected to be "
                f"in the set {{{','.join(sorted(outputs))}}}."
            )
        response = predict_pb2.PredictResponse(
            outputs={name: proto_of(outputs[name]) for name in wanted}
        )
        response.model_spec.name = spec.name
        response.model_spec.version.value = version
        response.model_spec.signature_name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        return response

    async def GetModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answers with the signatures of a version."""
        async with _errors(context):
            return protos.metadata_response(
                self._predictor, _spec(request), list(request.metadata_field)
            )


class Models(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus; reloading by request is UNIMPLEMENTED: versions are picked up from disk."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    async def GetModelStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answers with what has become of the versions."""
        async with _errors(context):
            if not request.HasField("model_spec"):
                raise InvalidArgumentError("Missing ModelSpec")
            return protos.status_response(self._predictor, _spec(request))
