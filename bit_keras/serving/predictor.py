"""What REST and gRPC have in common: from a request to the outputs, within bounds."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bit_keras.serving.batching import Batcher
from bit_keras.serving.configs import BATCHING, BatchingParameters, read_batching
from bit_keras.serving.errors import OverloadedError, ServingError, TooLargeError
from bit_keras.serving.metrics import Metrics
from bit_keras.serving.servable import Arrays, Servable, Signature, missing
from bit_keras.serving.versions import Model


@dataclass(frozen=True)
class Spec:
    """What a request is about.

    Attributes:
        name: of the model.
        version: its number; None for the newest.
        label: its label; "" for none.
    """

    name: str
    version: int | None = None
    label: str = ""


class Budget:
    """Bounds what is under way: requests and their bytes.

    Args:
        max_requests: number of requests.
        max_bytes: of all of them.
        max_request_bytes: of one.
        metrics: take what is in flight.
    """

    def __init__(
        self, max_requests: int, max_bytes: int, max_request_bytes: int, metrics: Metrics
    ) -> None:
        self.max_request_bytes = max_request_bytes
        self._max_requests, self._max_bytes = max_requests, max_bytes
        self._requests = self._bytes = 0
        self._metrics = metrics

    @contextlib.contextmanager
    def request(self) -> Iterator[Callable[[int], None]]:
        """Holds a place for a request; gives a function that takes the bytes as they become known.

        Raises:
            OverloadedError: when there is no place, or no room for the bytes.
            TooLargeError: when the request alone is above the limit.
        """
        if self._requests >= self._max_requests:
            raise OverloadedError(f"{self._requests} requests are under way. Try again later.")
        self._requests += 1
        taken = 0

        def take(count: int) -> None:
            nonlocal taken
            if taken + count > self.max_request_bytes:
                raise TooLargeError(
                    f"The request is above the limit of {self.max_request_bytes} bytes."
                )
            if self._bytes + count > self._max_bytes:
                raise OverloadedError(f"{self._bytes} bytes are under way. Try again later.")
            taken += count
            self._bytes += count
            self._metrics.in_flight.set(self._bytes)

        try:
            yield take
        finally:
            self._requests -= 1
            self._bytes -= taken
            self._metrics.in_flight.set(self._bytes)


class Predictor:
    """Answers Predict requests of all models. To be used within one event loop.

    Args:
        models: by name.
        overrides: batching parameters by name that stand above each model's batching.config.
        budget: bounds.
        metrics: take what is counted.
    """

    def __init__(
        self, models: dict[str, Model], overrides: dict[str, int], budget: Budget, metrics: Metrics
    ) -> None:
        self.models = models
        self.budget = budget
        self.metrics = metrics
        self._batchers = {}
        for name, model in models.items():
            found = vars(read_batching(model.base_path / BATCHING))
            parameters = BatchingParameters(**{**found, **overrides})
            self._batchers[name] = Batcher(parameters, metrics, name)

    def model(self, name: str) -> Model:
        """The model of this name.

        Raises:
            NotFoundError: when there is none.
        """
        if name not in self.models:
            raise missing(name)
        return self.models[name]

    def resolve(self, spec: Spec) -> tuple[int, Servable]:
        """The version that a request means, and its number.

        Raises:
            NotFoundError: when it is not served.
        """
        return self.model(spec.name).resolve(spec.version, spec.label)

    async def run(self, name: str, signature: Signature, inputs: Arrays) -> Arrays:
        """The outputs of a model's signature, computed together with other requests.

        Raises:
            ServingError: when the inputs do not fit, or there is no answer.
        """
        signature.check(inputs)
        return await self._batchers[name].run(signature, inputs)

    @contextlib.contextmanager
    def counted(self, name: str, api: str) -> Iterator[None]:
        """Counts a request, its time and what became of it."""
        started = time.monotonic()
        name = name if name in self.models else ""  # not one series for every misspelt name
        code = "OK"
        try:
            yield
        except ServingError as error:
            code = error.code
            raise
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        except BaseException:
            code = "INTERNAL"
            raise
        finally:
            self.metrics.requests.labels(name, api, code).inc()
            self.metrics.seconds.labels(name, api).observe(time.monotonic() - started)

    @property
    def ready(self) -> bool:
        """Whether every model has a version that answers."""
        return all(model.available for model in self.models.values())

    def close(self) -> None:
        """Ends the threads; nothing may be under way any more."""
        for batcher in self._batchers.values():
            batcher.close()
