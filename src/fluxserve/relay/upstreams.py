"""One upstream: a server that answers as OpenAI's does, at an address that the operator has set.

Its key goes into the header of a request to it and nowhere else: what it answers is passed on without it, should it be
there.
"""

import asyncio
import io
from contextlib import suppress
from dataclasses import dataclass

import aiohttp
import httpx2
from yarl import URL

MOST_BYTES = 2**26  # of an answer that is no stream
MOST_CONNECTIONS = 1000
KEPT_SECONDS = 30.0  # that a connection waits for a next request
END_SECONDS = 1.0  # that an upstream may take to end a stream in which all was said
AT_ONCE = 2**18  # bytes of a body; a larger one is written in pieces, between which others have their turn
JSON, STREAM = "application/json", "text/event-stream"
HIDDEN = b"***"
# Not the request's fault but ours with it, or its own: another upstream may do better.
TRY_NEXT = frozenset((401, 402, 403, 404, 408, 429))
TOO_MANY = 429
FAULTS = (aiohttp.ClientError, OSError)
# A kept connection may be closed by its server at the very moment that it is used.
BROKEN = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)


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
        self._url = url.rstrip("/")
        self._headers = {
            "User-Agent": "fluxserve",
            "Accept-Encoding": "identity",
            **({"Authorization": f"Bearer {key}"} if key else {}),
        }
        self._connect_seconds = connect_seconds
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, request: Request) -> "Answer | Stream":
        """Its whole answer, or a stream whose beginning is there. Raises `UpstreamError`."""
        seconds = self._first_byte_seconds if request.is_stream else self.answer_seconds
        try:
            async with asyncio.timeout(seconds):
                try:
                    return await self._ask(request)
                except aiohttp.ClientConnectorError:
                    raise
                except BROKEN:
                    return await self._ask(request)
        except FAULTS as error:
            if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ClientError):
                raise UpstreamError(f"it was silent for {seconds:g} s") from None
            reason = self.without_key(f"{type(error).__name__}: {error}".encode()).decode()
            raise UpstreamError(f"it could not be reached or understood: {' '.join(reason.split())}") from None

    def without_key(self, data: bytes) -> bytes:
        return data.replace(self._key, HIDDEN) if self._key and self._key in data else data

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _ask(self, request: Request) -> "Answer | Stream":
        response = await self._opened().post(
            URL(self._url + request.path, encoded=True),
            data=request.body if len(request.body) <= AT_ONCE else io.BytesIO(request.body),
            headers={
                "Content-Type": request.content_type,
                "Accept": STREAM if request.is_stream else JSON,
            },
            allow_redirects=False,
        )
        is_passed = False
        try:
            _check(response)
            content_type = response.headers.get("Content-Type", JSON)
            if response.status == 200 and request.is_stream and content_type.lower().startswith(STREAM):
                stream = Stream(self, response)
                await stream.begin()
                is_passed = True
                return stream
            return Answer(response.status, content_type, self.without_key(await _whole(response)))
        finally:
            if not is_passed:
                response.close()

    def _opened(self) -> aiohttp.ClientSession:
        """Made by the first who needs it, for it belongs to the running loop."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=MOST_CONNECTIONS, keepalive_timeout=KEPT_SECONDS, ssl=httpx2.create_ssl_context()
                ),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_seconds),
                headers=self._headers,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
        return self._session


class Stream:
    """An answer that comes in pieces, the first of which is there."""

    def __init__(self, upstream: Upstream, response: aiohttp.ClientResponse) -> None:
        self.upstream = upstream
        self._response = response
        self._first = b""

    async def begin(self) -> None:
        self._first = await self._response.content.readany()
        if not self._first:
            raise UpstreamError("its stream was empty")

    async def next(self) -> bytes:
        """What comes next, nothing at the end. Raises `BrokenOffError`."""
        if self._first:
            part, self._first = self._first, b""
            return self.upstream.without_key(part)
        try:
            async with asyncio.timeout(self.upstream.gap_seconds):
                part = await self._response.content.readany()
        except TimeoutError:
            raise BrokenOffError(f"it was silent for {self.upstream.gap_seconds:g} s within its answer") from None
        except FAULTS as error:
            if not (part := self._rest()):
                raise BrokenOffError(f"it broke off within its answer: {type(error).__name__}") from None
        return self.upstream.without_key(part)

    def _rest(self) -> bytes:
        """What came before it broke off: aiohttp has it, and gives out nothing any more."""
        parts = self._response.content._buffer
        rest = b"".join(parts)
        parts.clear()
        return rest

    def close(self) -> None:
        """One that is not at its end is broken off, at the upstream too."""
        self._response.close()

    async def close_at_end(self) -> None:
        """The same, once what must be its end is there: its connection may serve again."""
        with suppress(TimeoutError, *FAULTS):
            async with asyncio.timeout(END_SECONDS):
                await self._response.content.readany()
        self.close()


def _check(response: aiohttp.ClientResponse) -> None:
    """Raises `UpstreamError` unless the answer is for the caller."""
    status = response.status
    if 200 <= status < 300 or (400 <= status < 500 and status not in TRY_NEXT):
        return
    after = response.headers.get("Retry-After", "")
    seconds = int(after) if after.isdecimal() and len(after) < 6 else None
    raise UpstreamError(f"it answered with status {status}", status, seconds)


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    parts: list[bytes] = []
    size = 0
    while part := await response.content.readany():
        size += len(part)
        if size > MOST_BYTES:
            raise UpstreamError(f"its answer has more than {MOST_BYTES} bytes")
        parts.append(part)
    return b"".join(parts)
