"""One upstream: a server that answers as OpenAI's does, at an address that the operator has set.

Its key goes into the header of a request to it and nowhere else: what it answers is passed on without it, should it be
there.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass

import httpcore2
import httpx2

MOST_BYTES = 2**26  # of an answer that is no stream
MOST_CONNECTIONS = 1000
KEPT_CONNECTIONS = 100  # that wait for a next request
KEPT_SECONDS = 30.0
END_SECONDS = 1.0  # that an upstream may take to end a stream in which all was said
STREAM = "text/event-stream"
HIDDEN = b"***"
# Not the request's fault but ours with it, or its own: another upstream may do better.
TRY_NEXT = frozenset((401, 402, 403, 404, 408, 429))
TOO_MANY = 429
FAULTS = (
    httpcore2.TimeoutException,
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.UnsupportedProtocol,
    OSError,
)
# A kept connection may be closed by its server at the very moment that it is used.
BROKEN = (httpcore2.ReadError, httpcore2.WriteError, httpcore2.RemoteProtocolError)


class UpstreamError(Exception):
    """It gave no answer that could be passed on, for a reason that is for the log. `status` is HTTP's, if it came so
    far; it asks to be left alone for `retry_after` seconds, if it said so."""

    def __init__(self, message: str, status: int | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status, self.retry_after = status, retry_after


class BrokenOffError(UpstreamError):
    """It broke off within its answer."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent. `path` comes after the upstream's address."""

    path: str
    content_type: str
    body: bytes
    is_stream: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole one."""

    status: int
    content_type: str
    data: bytes

    @property
    def is_good(self) -> bool:
        """Whether it is what was asked for, and not why it is refused."""
        return 200 <= self.status < 300


class Upstream:
    """The times are in seconds."""

    def __init__(
        self,
        name: str,
        url: str,
        key: str | None,
        *,
        connect_seconds: float = 5.0,
        first_byte_seconds: float = 60.0,
        gap_seconds: float = 60.0,
        answer_seconds: float = 600.0,
    ) -> None:
        self.name = name
        self.gap_seconds = gap_seconds
        self.answer_seconds = answer_seconds
        self._first_byte_seconds = first_byte_seconds
        self._key = key.encode() if key else b""
        self._address = httpx2.URL(url)
        self._headers = [
            (b"Host", self._address.netloc),
            (b"User-Agent", b"fluxserve"),
            (b"Accept-Encoding", b"identity"),
            *([(b"Authorization", b"Bearer " + self._key)] if self._key else []),
        ]
        self._extensions = {"timeout": {"connect": connect_seconds, "write": connect_seconds, "pool": connect_seconds}}
        self._pool = httpcore2.AsyncConnectionPool(
            max_connections=MOST_CONNECTIONS,
            max_keepalive_connections=KEPT_CONNECTIONS,
            keepalive_expiry=KEPT_SECONDS,
        )

    async def ask(self, request: Request) -> "Answer | Stream":
        """Its whole answer, or a stream whose beginning is there. Raises `UpstreamError`."""
        seconds = self._first_byte_seconds if request.is_stream else self.answer_seconds
        try:
            async with asyncio.timeout(seconds):
                try:
                    return await self._ask(request)
                except BROKEN:
                    return await self._ask(request)
        except TimeoutError:
            raise UpstreamError(f"it was silent for {seconds:g} s") from None
        except FAULTS as error:
            reason = self.without_key(f"{type(error).__name__}: {error}".encode()).decode()
            raise UpstreamError(f"it could not be reached or understood: {' '.join(reason.split())}") from None

    def _url(self, path: str) -> httpcore2.URL:
        address = self._address
        target = address.raw_path.rstrip(b"/") + path.encode()
        return httpcore2.URL(scheme=address.raw_scheme, host=address.raw_host, port=address.port, target=target)

    def without_key(self, data: bytes) -> bytes:
        return data.replace(self._key, HIDDEN) if self._key and self._key in data else data

    async def close(self) -> None:
        await self._pool.aclose()

    async def _ask(self, request: Request) -> "Answer | Stream":
        headers = [
            *self._headers,
            (b"Content-Type", request.content_type.encode()),
            (b"Accept", STREAM.encode() if request.is_stream else b"application/json"),
            (b"Content-Length", str(len(request.body)).encode()),
        ]
        response = await self._pool.handle_async_request(
            httpcore2.Request(
                b"POST", self._url(request.path), headers=headers, content=request.body, extensions=self._extensions
            )
        )
        is_passed = False
        try:
            told = {name.lower(): value.decode("latin-1") for name, value in response.headers}
            _check(response.status, told)
            content_type = told.get(b"content-type", "application/json")
            if response.status == 200 and request.is_stream and content_type.lower().startswith(STREAM):
                stream = Stream(self, response)
                await stream.begin()
                is_passed = True
                return stream
            return Answer(response.status, content_type, self.without_key(await _whole(response)))
        finally:
            if not is_passed:
                await response.aclose()


class Stream:
    """An answer that comes in pieces, the first of which is there."""

    def __init__(self, upstream: Upstream, response: httpcore2.Response) -> None:
        self.upstream = upstream
        self._response = response
        self._parts: AsyncIterator[bytes] = response.aiter_stream()
        self._first = b""

    async def begin(self) -> None:
        while not self._first:
            part = await anext(self._parts, None)
            if part is None:
                raise UpstreamError("its stream was empty")
            self._first = part

    async def next(self) -> bytes:
        """What comes next, nothing at the end. Raises `BrokenOffError`."""
        if self._first:
            part, self._first = self._first, b""
            return self.upstream.without_key(part)
        try:
            async with asyncio.timeout(self.upstream.gap_seconds):
                part = await anext(self._parts, b"")
        except TimeoutError:
            raise BrokenOffError(f"it was silent for {self.upstream.gap_seconds:g} s within its answer") from None
        except FAULTS as error:
            raise BrokenOffError(f"it broke off within its answer: {type(error).__name__}") from None
        return self.upstream.without_key(part)

    async def close(self) -> None:
        """One that is not at its end is broken off, at the upstream too."""
        await self._response.aclose()

    async def close_at_end(self) -> None:
        """The same, once what must be its end is there: its connection may serve again."""
        with suppress(TimeoutError, *FAULTS):
            async with asyncio.timeout(END_SECONDS):
                await anext(self._parts, b"")
        await self.close()


def _check(status: int, told: dict[bytes, str]) -> None:
    """Raises `UpstreamError` unless the answer is for the caller."""
    if 200 <= status < 300 or (400 <= status < 500 and status not in TRY_NEXT):
        return
    after = told.get(b"retry-after", "")
    seconds = int(after) if after.isdecimal() and len(after) < 6 else None
    raise UpstreamError(f"it answered with status {status}", status, seconds)


async def _whole(response: httpcore2.Response) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.aiter_stream():
        size += len(part)
        if size > MOST_BYTES:
            raise UpstreamError(f"its answer has more than {MOST_BYTES} bytes")
        parts.append(part)
    return b"".join(parts)
