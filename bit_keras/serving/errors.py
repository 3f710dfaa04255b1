"""What a request may be refused for, with the status codes of gRPC and of REST.

Source: the table from one to the other is TensorFlow Serving's, `model_servers/http_server.cc`.
"""

from __future__ import annotations

HTTP_STATUS = {
    "INVALID_ARGUMENT": 400,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}


class ServingError(Exception):
    """A request that is not answered; the message is for the client.

    Attributes:
        code: name of the gRPC status code.
        http_status: status of the REST answer.
    """

    code = "INTERNAL"

    @property
    def http_status(self) -> int:
        """The status of the REST answer."""
        return HTTP_STATUS[self.code]


class InvalidArgumentError(ServingError):
    """A request that can never be answered."""

    code = "INVALID_ARGUMENT"


class NotFoundError(ServingError):
    """No such model, version or label."""

    code = "NOT_FOUND"


class OverloadedError(ServingError):
    """Too many requests, or too large ones, are under way: try again later."""

    code = "RESOURCE_EXHAUSTED"


class TooLargeError(ServingError):
    """A request above the limit, whatever else is under way."""

    code = "RESOURCE_EXHAUSTED"

    @property
    def http_status(self) -> int:
        """413, not 429, for trying again does not help."""
        return 413


class UnimplementedError(ServingError):
    """A part of TensorFlow Serving's interface that is not here."""

    code = "UNIMPLEMENTED"


class DeadlineError(ServingError):
    """The time for the request is over."""

    code = "DEADLINE_EXCEEDED"
