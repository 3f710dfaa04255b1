"""Options of `bit-keras serve`, the same for Python and for the command line."""

from __future__ import annotations

from dataclasses import dataclass

from bit_keras.options import check_numbers, option, required


@dataclass(frozen=True)
class ServeOptions:
    """Serves modules for laptops and tests, with the REST and gRPC interface of TensorFlow Serving.

    Requests are answered in batches, new versions are picked up while it runs, and SIGTERM or
    Ctrl-C lets the requests that are under way finish. Needs the extra [serving].
    """

    model_dir: str = required(
        "A folder of versions (1/, 2/, ...) of a serving module, or a folder of such folders."
    )
    name: str = option("", "The model's name; default: that in models.config, else the folder's.")
    host: str = option("127.0.0.1", "The address to listen at; 0.0.0.0 for all of this machine.")
    port: int = option(8501, "Port of the REST interface; 0 takes any free one.")
    grpc_port: int = option(8500, "Port of the gRPC interface; 0 takes any free one.")
    max_batch_size: int | None = option(
        None, "Examples computed at once. Default: that of batching.config, else 32."
    )
    batch_timeout_micros: int | None = option(
        None, "How long a batch waits for more examples. Default: batching.config's, else 2000."
    )
    num_batch_threads: int | None = option(
        None, "Batches computed at the same time. Default: batching.config's, else 2."
    )
    max_enqueued_batches: int | None = option(
        None, "Batches that may wait, for each signature. Default: batching.config's, else 16."
    )
    max_requests: int = option(1024, "Requests under way; more are refused.")
    max_request_mb: int = option(64, "Size of one request, and of its tensors, in megabytes.")
    max_pending_mb: int = option(512, "Size of all requests under way, in megabytes.")
    timeout: float = option(30.0, "Seconds until a REST request is given up.")
    poll_seconds: float = option(1.0, "How often to look for new versions, seconds.")
    drain_seconds: float = option(30.0, "Time for requests under way when told to stop, seconds.")

    def __post_init__(self) -> None:
        check_numbers(self, 0, "port", "grpc_port", "batch_timeout_micros", "drain_seconds")
        check_numbers(self, 1, "max_batch_size", "num_batch_threads", "max_enqueued_batches")
        check_numbers(self, 1, "max_requests", "max_request_mb", "max_pending_mb")
        for name in ("timeout", "poll_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, received {getattr(self, name)}")
        if max(self.port, self.grpc_port) > 65535:
            raise ValueError(f"ports end at 65535, received {max(self.port, self.grpc_port)}")
        if self.max_pending_mb < self.max_request_mb:
            raise ValueError(
                f"max_pending_mb must be at least max_request_mb, received {self.max_pending_mb} "
                f"and {self.max_request_mb}"
            )
