"""Answers about models as the messages of TensorFlow Serving, for gRPC and, as JSON, for REST."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf import json_format
from tensorflow.core.protobuf import error_codes_pb2
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from bit_keras.serving.errors import InvalidArgumentError, NotFoundError
from bit_keras.serving.predictor import Predictor, Spec

_FIELD = "signature_def"


def status_response(predictor: Predictor, spec: Spec) -> Any:
    """A GetModelStatusResponse.

    Raises:
        NotFoundError: when there is no such model or version.
    """
    if spec.name not in predictor.models:
        raise NotFoundError(f"Could not find any versions of model {spec.name}")
    response = get_model_status_pb2.GetModelStatusResponse()
    states = get_model_status_pb2.ModelVersionStatus.State
    statuses = predictor.models[spec.name].statuses(spec.version, spec.label)
    for version, status in statuses.items():
        added = response.model_version_status.add(version=version, state=states.Value(status.state))
        if status.error:
            added.status.error_code = error_codes_pb2.UNKNOWN
        added.status.error_message = status.error
    return response


def metadata_response(predictor: Predictor, spec: Spec, fields: list[str]) -> Any:
    """A GetModelMetadataResponse with the signatures.

    Raises:
        NotFoundError: when there is no such model or version.
        InvalidArgumentError: for any other field.
    """
    if not fields:
        raise InvalidArgumentError("GetModelMetadataRequest must specify at least one field")
    if unknown := [field for field in fields if field != _FIELD]:
        raise InvalidArgumentError(f"Metadata field {unknown[0]} is not supported")
    version, servable = predictor.resolve(spec)
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = spec.name
    response.model_spec.version.value = version
    signatures = get_model_metadata_pb2.SignatureDefMap()
    for name, definition in servable.signature_defs.items():
        signatures.signature_def[name].CopyFrom(definition)
    response.metadata[_FIELD].Pack(signatures)
    return response


def status_json(predictor: Predictor, spec: Spec) -> bytes:
    """The answer to GET /v1/models/NAME."""
    return json.dumps(_plain(status_response(predictor, spec)), indent=1).encode() + b"\n"


def metadata_json(predictor: Predictor, spec: Spec) -> bytes:
    """The answer to GET /v1/models/NAME/metadata."""
    response = metadata_response(predictor, spec, [_FIELD])
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata[_FIELD].Unpack(signatures)
    found = {
        "model_spec": _plain(response.model_spec),
        "metadata": {_FIELD: _plain(signatures)},
    }
    return json.dumps(found, indent=1).encode() + b"\n"


def _plain(message: Any) -> dict[str, Any]:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
