"""What the server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

CONTENT_TYPE = CONTENT_TYPE_LATEST

_PREFIX = "bit_keras_serving"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counters of one server, apart from those of any other in the process.

    Attributes:
        requests: answered Predict requests by model, interface and code.
        seconds: time from a request's arrival to its answer.
        waited: time in a queue.
        computed: time of a batch in the module.
        batch_size: examples of a batch.
        pending: examples that wait or are computed.
        in_flight: bytes of the requests under way.
        versions: 1 for the state that a version is in.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        per_signature = ("model", "signature")
        self.requests = Counter(
            f"{_PREFIX}_requests", "Predict requests that were answered, by code.",
            ("model", "api", "code"), registry=self._registry,
        )  # fmt: skip
        self.seconds = Histogram(
            f"{_PREFIX}_request_seconds", "From a request's arrival to its answer.",
            ("model", "api"), registry=self._registry, buckets=_SECONDS,
        )  # fmt: skip
        self.waited = Histogram(
            f"{_PREFIX}_queue_seconds", "Time that requests wait for their batch.",
            per_signature, registry=self._registry, buckets=_SECONDS,
        )  # fmt: skip
        self.computed = Histogram(
            f"{_PREFIX}_batch_seconds", "Time that the module takes for a batch.",
            per_signature, registry=self._registry, buckets=_SECONDS,
        )  # fmt: skip
        self.batch_size = Histogram(
            f"{_PREFIX}_batch_size", "Examples computed at once.",
            per_signature, registry=self._registry, buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
        )  # fmt: skip
        self.pending = Gauge(
            f"{_PREFIX}_pending_examples", "Examples that wait or are computed.",
            per_signature, registry=self._registry,
        )  # fmt: skip
        self.in_flight = Gauge(
            f"{_PREFIX}_in_flight_bytes", "Size of the requests under way.", registry=self._registry
        )
        self.versions = Gauge(
            f"{_PREFIX}_version_state", "1 for the state that a version of a model is in.",
            ("model", "version", "state"), registry=self._registry,
        )  # fmt: skip

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self._registry)
