"""Arrival: a request is there whole, and in time.

uvicorn waits for ever for a request that a new connection promises, or that has begun, and takes a head of any length.
This is its protocol class with a clock. The clock starts when a connection is accepted, and later at the first byte of
each further request; it stops at the request's last byte. How long the answer takes is no matter; nor are connections
that wait for a next request, which uvicorn closes by itself, nor clients that read an answer slowly. How large a body
may be is for those who read it.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from fluxserve.api.perimeter.clients import client_at
from fluxserve.domain.errors import FluxserveError, TooSlow

log = logging.getLogger(__name__)

MOST_HEADERS = 1000
MOST_BYTES = 2**18  # of a head, or of what comes between two pieces of a body, or after the last


@dataclass(frozen=True, slots=True)
class ArrivalRules:
    """What all connections have in common; `refusal` makes the answer to a request that is late, by its path."""

    request_seconds: float
    connections_of_one: int
    refusal: Callable[[str, FluxserveError], Response]
    open: Counter[str] = field(default_factory=Counter)  # connections of each client


class Arrival(HttpToolsProtocol):
    """One connection."""

    def __init__(self, rules: ArrivalRules, **of_uvicorn: Any) -> None:
        super().__init__(**of_uvicorn)
        self._rules = rules
        self._client = ""
        self._clock: asyncio.TimerHandle | None = None
        self._bytes = 0  # that came since the request began, or since the last of its body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._client = client_at(self.client[0]) if self.client else ""
        self._rules.open[self._client] += 1
        if self._rules.open[self._client] > self._rules.connections_of_one:
            log.warning("%s has %d connections open; one more is closed", self._client, self._rules.connections_of_one)
            transport.close()
        else:
            self._start_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_clock()
        self._rules.open[self._client] -= 1
        if not self._rules.open[self._client]:
            del self._rules.open[self._client]

    def data_received(self, data: bytes) -> None:
        self._start_clock()
        super().data_received(data)
        self._bytes += len(data)
        if self._bytes > MOST_BYTES:
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._start_clock()  # it may have come in one piece with the last byte of the request before it
        self._bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.headers) == MOST_HEADERS:
            raise ValueError("too many headers")  # uvicorn's answer is 400
        super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._bytes = 0

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._stop_clock()

    def _start_clock(self) -> None:
        if self._clock is None:
            self._clock = self.loop.call_later(self._rules.request_seconds, self._time_is_up)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _time_is_up(self) -> None:
        self._clock = None
        if self.transport.is_closing():
            return
        if self._waits_for_us():
            self._start_clock()
        elif self.cycle is not None and not self.cycle.response_started:
            self._answer_that_it_is_late()
        else:
            self.transport.close()

    def _waits_for_us(self) -> bool:
        """Whether what has not arrived may be late because an earlier request is being answered, or ours to read."""
        is_answering = self.cycle is not None and not self.cycle.more_body and not self.cycle.response_complete
        return is_answering or bool(self.pipeline) or self.flow.read_paused

    def _answer_that_it_is_late(self) -> None:
        self.cycle.disconnected = True  # so that nothing more is sent, whatever the application says to this end
        allowed = f"{self._rules.request_seconds:g} s that FLUXSERVE_REQUEST_SECONDS allows"
        answer = self._rules.refusal(
            self.cycle.scope["path"], TooSlow(f"request: it took longer to arrive than the {allowed}")
        )
        head = [b"%b: %b\r\n" % header for header in answer.raw_headers]
        self.transport.write(
            b"".join([STATUS_LINE[answer.status_code], *head, b"connection: close\r\n\r\n", bytes(answer.body)])
        )
        self.transport.close()
