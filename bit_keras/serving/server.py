"""The server: both interfaces in one event loop, in a thread of its own."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

try:
    import grpc
    import uvicorn

    from bit_keras.serving.grpc_api import add_services
    from bit_keras.serving.metrics import Metrics
    from bit_keras.serving.predictor import Budget, Predictor
    from bit_keras.serving.rest import Rest
    from bit_keras.serving.versions import AVAILABLE, END, LOADING, Model, find_models
except ImportError as error:
    raise ImportError(f"{error}. Serving needs: pip install 'bit-keras[serving]'") from error

from bit_keras.serve_options import ServeOptions
from bit_keras.serving.configs import BatchingParameters
from bit_keras.signals import signals_noted


class Server:
    """Serves the models of a folder while the `with` block runs; then lets requests finish.

    Attributes:
        port: of the REST interface.
        grpc_port: of the gRPC interface.
        models: by name.

    Raises:
        OSError: when a port is taken, or there is no model.
        ValueError: when no version of a model can be loaded, or a configuration file is wrong.

    Example:
        >>> options = ServeOptions("runs/photos/serving", port=0, grpc_port=0)
        >>> with Server(options) as server:  # doctest: +SKIP
        ...     requests.get(f"http://127.0.0.1:{server.port}/v1/models/photos").json()
    """

    def __init__(self, options: ServeOptions) -> None:
        self._options = options
        self.metrics = Metrics()
        self.models = find_models(Path(options.model_dir), options.name, self._changed)
        self.port = self.grpc_port = 0
        self._stop = threading.Event()  # for the thread that looks for versions
        self._draining = False
        self._ended: asyncio.Event
        self._loop: asyncio.AbstractEventLoop
        self._threads: list[threading.Thread] = []

    def _changed(self, name: str, version: int, state: str) -> None:
        for known in (LOADING, AVAILABLE, END):
            self.metrics.versions.labels(name, version, known).set(known == state)

    def __enter__(self) -> Server:
        for model in self.models.values():
            model.poll()
            if not model.available:
                failed = model.statuses()
                reasons = "; ".join(f"version {v}: {s.error}" for v, s in failed.items())
                raise ValueError(
                    f"No version of {model.base_path} can be served. {reasons or 'None is chosen.'}"
                )
        opened: Future[None] = Future()
        self._threads = [
            threading.Thread(target=self._run, args=(opened,), name="serving"),
            threading.Thread(target=self._watch, name="versions", daemon=True),
        ]
        self._threads[0].start()
        opened.result()
        self._threads[1].start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._draining = True
        self._stop.set()
        self._loop.call_soon_threadsafe(self._ended.set)
        for thread in self._threads:
            thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(self._options.poll_seconds):
            for model in self.models.values():
                model.poll()

    def _run(self, opened: Future[None]) -> None:
        try:
            asyncio.run(self._serve(opened))
        except BaseException as error:
            if opened.done():
                raise
            opened.set_exception(error)

    async def _serve(self, opened: Future[None]) -> None:
        self._ended, self._loop = asyncio.Event(), asyncio.get_running_loop()
        predictor = self._predictor()
        listener = _listen(self._options.host, self._options.port)
        try:
            self.port = listener.getsockname()[1]
            rpc = await self._start_grpc(predictor)
        except BaseException:
            listener.close()
            raise
        rest = uvicorn.Server(self._uvicorn_config(predictor))
        serving = asyncio.create_task(rest.serve(sockets=[listener]))
        while not rest.started and not serving.done():
            await asyncio.sleep(0.01)
        opened.set_result(None)
        await self._ended.wait()
        rest.should_exit = True
        await asyncio.gather(serving, rpc.stop(self._options.drain_seconds))
        listener.close()
        await asyncio.to_thread(predictor.close)

    def _predictor(self) -> Predictor:
        options = self._options
        names = [field.name for field in dataclasses.fields(BatchingParameters)]
        given = {name: value for name in names if (value := getattr(options, name)) is not None}
        budget = Budget(
            options.max_requests,
            options.max_pending_mb * 10**6,
            options.max_request_mb * 10**6,
            self.metrics,
        )
        return Predictor(self.models, given, budget, self.metrics)

    def _uvicorn_config(self, predictor: Predictor) -> uvicorn.Config:
        rest = Rest(predictor, self._options.timeout, lambda: self._draining)
        return uvicorn.Config(
            rest.app(),
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=round(self._options.drain_seconds),
        )

    async def _start_grpc(self, predictor: Predictor) -> Any:
        options = self._options
        rpc = grpc.aio.server(
            maximum_concurrent_rpcs=options.max_requests,
            options=[
                ("grpc.max_receive_message_length", options.max_request_mb * 10**6),
                ("grpc.max_send_message_length", -1),
                # Else a second server at the same port would take half of the calls.
                ("grpc.so_reuseport", 0),
            ],
        )
        add_services(rpc, predictor)
        try:
            self.grpc_port = rpc.add_insecure_port(f"{options.host}:{options.grpc_port}")
        except RuntimeError as error:
            raise _taken(options.host, options.grpc_port, "grpc_port") from error
        if not self.grpc_port:
            raise _taken(options.host, options.grpc_port, "grpc_port")
        await rpc.start()
        return rpc


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise _taken(host, port, "port") from error
    return listener


def _taken(host: str, port: int, flag: str) -> OSError:
    return OSError(
        f"Cannot listen at {host}:{port}: another program does, or it is not allowed. "
        f"Choose another --{flag}; 0 takes any free one."
    )


def _where(model: Model, server: Server, host: str) -> str:
    versions = ", ".join(map(str, model.available))
    return (
        f"Serving {model.name}, version {versions}: http://{host}:{server.port}/v1/models/"
        f"{model.name} and gRPC at {host}:{server.grpc_port}"
    )


def serve(options: ServeOptions) -> None:
    """Serves until SIGTERM or SIGINT, then lets the requests under way finish.

    Raises:
        OSError: when a port is taken, or there is no model.
        ValueError: when no version can be loaded.
    """
    with signals_noted() as noted, Server(options) as server:
        for model in server.models.values():
            print(_where(model, server, options.host), flush=True)
        while not noted:
            time.sleep(0.1)
        print("Stopping: requests under way are finished.", flush=True)
