"""HTTP connections with patience that ends: uvicorn bounds idle ones, not slow ones."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_SECONDS = 30.0  # for a request to arrive from its first byte to its last
STALL_SECONDS = 120.0  # without anything read by the client of an answer

_ARRIVED = (h11.DONE, h11.MUST_CLOSE, h11.CLOSED, h11.ERROR)


class PatientProtocol(H11Protocol):
    """Closes the connection of a client that sends or reads too slowly."""

    _arrival: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to wait for the first request."""
        super().connection_made(transport)
        self._arrival = self.loop.call_later(REQUEST_SECONDS, transport.close)

    def data_received(self, data: bytes) -> None:
        """Stops waiting when a request is whole; begins again with the next one's first byte."""
        super().data_received(data)
        if self.conn.their_state in _ARRIVED:
            self._cancel("_arrival")
        elif self._arrival is None:
            self._arrival = self.loop.call_later(REQUEST_SECONDS, self.transport.close)

    def pause_writing(self) -> None:
        """The client does not read what was sent: waits for a while."""
        super().pause_writing()
        self._stall = self.loop.call_later(STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """It read."""
        super().resume_writing()
        self._cancel("_stall")

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the timers."""
        self._cancel("_arrival")
        self._cancel("_stall")
        super().connection_lost(exc)

    def _cancel(self, name: str) -> None:
        timer = getattr(self, name)
        if timer is not None:
            timer.cancel()
        setattr(self, name, None)
