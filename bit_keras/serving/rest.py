"""The REST interface of TensorFlow Serving, as an ASGI application.

    GET  /v1/models/NAME[/versions/N | /labels/L][/metadata]
    POST /v1/models/NAME[/versions/N | /labels/L]:predict
    GET  /monitoring/prometheus/metrics, /healthz

Source: https://www.tensorflow.org/tfx/serving/api_rest; model_servers/http_rest_api_util.cc.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import traceback
from collections.abc import Callable, Coroutine
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from bit_keras.serving import json_tensors, protos
from bit_keras.serving.errors import (
    DeadlineError,
    InvalidArgumentError,
    ServingError,
    UnimplementedError,
)
from bit_keras.serving.metrics import CONTENT_TYPE
from bit_keras.serving.predictor import Predictor, Spec
from bit_keras.serving.servable import Arrays, Servable, Signature

_MODEL = r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?"
_PREDICTION = re.compile(_MODEL + r":(classify|regress|predict)", re.IGNORECASE)
_STATUS = re.compile(_MODEL + r"(/metadata)?", re.IGNORECASE)
_MAX_VERSION = 2**63 - 1
_METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]


class Rest:
    """The handlers.

    Args:
        predictor: answers.
        timeout: seconds until a request is given up.
        draining: whether the server is about to stop.
    """

    def __init__(self, predictor: Predictor, timeout: float, draining: Callable[[], bool]) -> None:
        self._predictor = predictor
        self._timeout = timeout
        self._draining = draining

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/healthz", self._health),
            Route("/monitoring/prometheus/metrics", self._metrics),
            Route("/v1/{path:path}", self._answer, methods=_METHODS),
        ]
        return Starlette(routes=routes)

    async def _health(self, request: Request) -> Response:
        ready = self._predictor.ready and not self._draining()
        return Response("ok\n" if ready else "not ready\n", 200 if ready else 503)

    async def _metrics(self, request: Request) -> Response:
        return Response(self._predictor.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def _answer(self, request: Request) -> Response:
        """Any request under /v1, its errors as JSON."""
        try:
            body, status = await self._route(request), 200
        except ServingError as error:
            body, status = json.dumps({"error": str(error)}).encode(), error.http_status
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            body, status = json.dumps({"error": type(error).__name__}).encode(), 500
        # A refused body has not been read to its end, so that the connection cannot be used again.
        headers = {"Connection": "close"} if status in (413, 429) else None
        return Response(body, status, headers, "application/json")

    async def _route(self, request: Request) -> bytes:
        path = request.scope["raw_path"].decode("latin-1")
        if request.method == "POST" and (found := _PREDICTION.fullmatch(path)):
            spec = _spec(found)
            if found[4].lower() != "predict":
                raise UnimplementedError(
                    f":{found[4]} is for signatures of tf.Example, which these modules have not; "
                    "use :predict."
                )
            with self._predictor.counted(spec.name, "REST"):
                return await self._in_time(self._predict(request, spec))
        if request.method == "GET" and (found := _STATUS.fullmatch(path)):
            answer = protos.metadata_json if found[4] else protos.status_json
            return answer(self._predictor, _spec(found))
        if path.rstrip("/").lower() == "/v1/models":
            raise InvalidArgumentError("Missing model name in request.")
        raise InvalidArgumentError(f"Malformed request: {request.method} {path}")

    async def _in_time(self, answer: Coroutine[None, None, bytes]) -> bytes:
        try:
            return await asyncio.wait_for(answer, self._timeout)
        except asyncio.TimeoutError:
            raise DeadlineError(f"No answer within {self._timeout:g} s.") from None

    async def _predict(self, request: Request, spec: Spec) -> bytes:
        _, servable = self._predictor.resolve(spec)
        with self._predictor.budget.request() as take:
            body = await _body(request, take)
            signature, inputs, rows = await asyncio.to_thread(_parse, body, servable)
            del body
            outputs = await self._predictor.run(spec.name, signature, inputs)
            return await asyncio.to_thread(json_tensors.render, outputs, rows=rows)


def _spec(found: re.Match[str]) -> Spec:
    version = int(found[2]) if found[2] else None
    if version is not None and version > _MAX_VERSION:
        raise InvalidArgumentError(f"Failed to convert version: {found[2]} to numeric.")
    return Spec(unquote(found[1]), version, unquote(found[3] or ""))


async def _body(request: Request, take: Callable[[int], None]) -> bytes:
    """The body, its bytes accounted for before they are read."""
    told = request.headers.get("content-length", "")
    expected = int(told) if told.isdecimal() else 0
    take(expected)
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if not told:
            take(len(part))
        parts.append(part)
    return b"".join(parts)


def _parse(body: bytes, servable: Servable) -> tuple[Signature, Arrays, bool]:
    request = json_tensors.parse(body)
    signature = servable.signature(request.get("signature_name", ""))
    return signature, json_tensors.arrays_of(request, signature), "instances" in request
