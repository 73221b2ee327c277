"""A request arrives in time or its connection is closed; whatever has arrived is left in peace."""

import asyncio
import contextlib
import itertools
import socket
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import uvicorn
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from fluxserve.api.perimeter import Arrival, ArrivalRules
from fluxserve.domain.errors import FluxserveError

pytestmark = pytest.mark.anyio

SECONDS = 1.0
SLACK = 5.0  # seconds more, for a machine that is busy
EVERY = 0.1  # seconds between two pieces of what comes slowly
PIECES = 20  # of a long answer, which takes 2.5 times as long as a request may
FOR_EVER = itertools.repeat
POST = b"POST /read HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n"
GET = b"GET /read HTTP/1.1\r\nHost: x\r\n\r\n"
LARGE = b"a" * 2_000_000
GET_LAST = b"GET /read HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}  # as the server runs


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads the body and answers with its length; or answers before, or at length, or reads late."""
    read = 0
    if scope["path"] == "/patient":
        await asyncio.sleep(2 * SECONDS)
    if scope["path"] != "/hasty":
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            read, more = read + len(message["body"]), message["more_body"]
    if scope["path"] == "/long":
        answer: Response = StreamingResponse(long_answer())
    else:
        answer = PlainTextResponse(f"{read} bytes", 401 if scope["path"] == "/hasty" else 200)
    await answer(scope, receive, send)


async def long_answer() -> AsyncIterator[bytes]:
    for _ in range(PIECES):
        yield b"and on "
        await asyncio.sleep(2.5 * SECONDS / PIECES)
    yield b"The end."


def refusal(path: str, error: FluxserveError) -> Response:
    return JSONResponse({"path": path, "message": error.message}, 408)


@asynccontextmanager
async def serving(
    request_seconds: float = SECONDS, connections_of_one: int = 100
) -> AsyncIterator[tuple[int, ArrivalRules]]:
    """uvicorn as the server runs it. The port, and the rules with their count of connections."""
    rules = ArrivalRules(request_seconds, connections_of_one, refusal)
    config = uvicorn.Config(
        app,
        http=partial(Arrival, rules),  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        log_config=None,
        timeout_keep_alive=2,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running = asyncio.create_task(server.serve([listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            yield listener.getsockname()[1], rules
        finally:
            server.should_exit = True
            await running


async def exchange(port: int, sent: bytes, slowly: Iterable[bytes] = ()) -> tuple[float, bytes]:
    """How long it took until the server closed the connection, and all that came back."""
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    reading = asyncio.create_task(everything(reader))
    writer.write(sent)
    for piece in slowly:
        await asyncio.sleep(EVERY)
        if reading.done() or time.monotonic() - began > 10 * SECONDS:
            break
        writer.write(piece)
    async with asyncio.timeout(10 * SECONDS):
        received = await reading
    writer.close()
    return time.monotonic() - began, received


async def everything(reader: asyncio.StreamReader) -> bytes:
    """Until the end; a server that has bytes left unread ends with a reset."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while part := await reader.read(65536):
            received += part
    return received


@pytest.mark.parametrize(
    ("sent", "slowly"),
    [
        pytest.param(b"", (), id="nothing comes"),
        pytest.param(POST, (), id="half a head"),
        pytest.param(POST + b"X-Slow: ", FOR_EVER(b"a"), id="a head byte by byte"),
        pytest.param(POST, FOR_EVER(b"X-Many: a\r\n"), id="a head line by line"),
        pytest.param(b"", FOR_EVER(b"\r\n"), id="empty lines"),
    ],
)
async def test_a_connection_whose_head_does_not_come_is_closed_in_time(sent: bytes, slowly: Iterable[bytes]) -> None:
    async with serving() as (port, _):
        seconds, received = await exchange(port, sent, slowly)

    assert 0.9 * SECONDS < seconds < SECONDS + SLACK
    assert received == b""


@pytest.mark.parametrize(
    ("sent", "slowly"),
    [
        pytest.param(POST + b"Content-Length: 10\r\n\r\n{", (), id="half a body"),
        pytest.param(POST + b"Content-Length: 10000\r\n\r\n{", FOR_EVER(b" "), id="a body byte by byte"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\n", FOR_EVER(b"1\r\na\r\n"), id="a body chunk by chunk"),
    ],
)
async def test_a_body_that_does_not_come_is_answered_with_408_in_time(sent: bytes, slowly: Iterable[bytes]) -> None:
    async with serving() as (port, _):
        seconds, received = await exchange(port, sent, slowly)

    assert 0.9 * SECONDS < seconds < SECONDS + SLACK
    assert received.startswith(b"HTTP/1.1 408 ")
    assert received.count(b"HTTP/1.1") == 1
    assert b'"path":"/read"' in received
    assert b"the 1 s that FLUXSERVE_REQUEST_SECONDS allows" in received


async def test_a_body_that_nobody_waits_for_any_more_is_not_taken_for_ever() -> None:
    head = POST.replace(b"read", b"hasty")
    async with serving() as (port, _):
        seconds, received = await exchange(port, head + b"Content-Length: 10000\r\n\r\n", FOR_EVER(b" "))

    assert 0.9 * SECONDS < seconds < SECONDS + SLACK
    assert received.startswith(b"HTTP/1.1 401 ")
    assert received.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("then", [b"\r\n", b"G", POST], ids=["an empty line", "one letter", "half a head"])
async def test_a_further_request_has_as_long_from_its_first_byte(then: bytes) -> None:
    async with serving() as (port, _):
        seconds, received = await exchange(port, GET, [b"", b"", b"", then])

    assert 0.9 * SECONDS + 3 * EVERY < seconds < SECONDS + 3 * EVERY + SLACK
    assert received.count(b"HTTP/1.1 200 ") == 1
    assert received.count(b"HTTP/1.1") == 1


async def test_a_further_request_whose_beginning_came_with_the_first_has_no_longer() -> None:
    async with serving() as (port, _):
        seconds, received = await exchange(port, GET + POST)

    assert 0.9 * SECONDS < seconds < SECONDS + SLACK
    assert received.count(b"HTTP/1.1") == 1


async def test_a_slow_request_that_is_there_in_time_is_answered() -> None:
    slow = [GET_LAST[at : at + 15] for at in range(0, len(GET_LAST), 15)]
    async with serving() as (port, _):
        _, received = await exchange(port, b"", slow)

    assert len(slow) * EVERY < SECONDS
    assert received.startswith(b"HTTP/1.1 200 ")


async def test_an_answer_may_take_longer() -> None:
    async with serving() as (port, _):
        seconds, received = await exchange(port, GET_LAST.replace(b"read", b"long"))

    assert seconds > 2 * SECONDS
    assert received.count(b"and on ") == PIECES
    assert b"The end." in received


@pytest.mark.parametrize("behind", [b"\r\n", POST, POST + b"Content-Length: 9\r\n\r\n{"])
@pytest.mark.parametrize("at_once", [True, False])
async def test_a_long_answer_is_not_cut_off_by_half_a_request_behind_it(behind: bytes, at_once: bool) -> None:
    sent = GET.replace(b"read", b"long")
    async with serving() as (port, _):
        seconds, received = await (exchange(port, sent + behind) if at_once else exchange(port, sent, [behind]))

    assert received.count(b"and on ") == PIECES
    assert received.partition(b"The end.")[0].count(b"HTTP/1.1") == 1
    assert b"The end." in received
    assert 2.5 * SECONDS < seconds < 2.5 * SECONDS + SECONDS + SLACK


async def test_a_body_that_we_are_slow_to_read_is_not_late() -> None:
    head = POST.replace(b"read", b"patient") + b"Connection: close\r\nContent-Length: 5000000\r\n\r\n"
    async with serving() as (port, _):
        seconds, received = await exchange(port, head + bytes(5_000_000))

    assert seconds > 2 * SECONDS
    assert b"5000000 bytes" in received


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(POST + b"X-Large: " + LARGE, id="a header"),
        pytest.param(b"GET /" + LARGE, id="a path"),
        pytest.param(CHUNKED + b"0\r\nX-Large: " + LARGE, id="a trailer"),
        pytest.param(CHUNKED + b"1;" + LARGE, id="what a chunk says beside its size"),
        pytest.param(GET + b"\r\n" * len(LARGE), id="empty lines"),
    ],
)
async def test_what_is_no_body_and_has_no_end_is_closed_before_it_is_large(sent: bytes) -> None:
    async with serving(request_seconds=60) as (port, _):
        seconds, received = await exchange(port, sent)

    assert seconds < SLACK
    assert received.count(b"HTTP/1.1") <= 1


@pytest.mark.parametrize("before", [POST, CHUNKED + b"0\r\n"], ids=["headers", "trailers"])
async def test_so_many_headers_are_refused(before: bytes) -> None:
    async with serving(request_seconds=60) as (port, _):
        seconds, received = await exchange(port, before + b"a:b\r\n" * 1001)

    assert seconds < SLACK
    assert received.startswith(b"HTTP/1.1 400 ")


async def test_a_large_body_is_taken_in_chunks_of_any_size() -> None:
    head = POST + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with serving(request_seconds=60) as (port, _):
        _, received = await exchange(port, head + b"1\r\na\r\n" * 200_000 + b"0\r\n\r\n")

    assert b"200000 bytes" in received


async def test_a_connection_serves_any_number_of_requests() -> None:
    long_head = GET.replace(b"Host", b"X-Long: " + b"a" * 5000 + b"\r\nHost")
    async with serving(request_seconds=60) as (port, _):
        _, received = await exchange(port, long_head * 100 + GET_LAST)

    assert received.count(b"HTTP/1.1 200 ") == 101


async def test_one_client_holds_so_many_connections_and_no_more() -> None:
    async with serving(request_seconds=60, connections_of_one=3) as (port, rules):
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        _, received = await exchange(port, GET_LAST)
        assert received == b""

        held[0][1].close()
        while rules.open["127.0.0.1"] == 3:
            await asyncio.sleep(0.01)
        _, received = await exchange(port, GET_LAST)
        assert received.startswith(b"HTTP/1.1 200 ")
        for _, writer in held:
            writer.close()

    assert not rules.open


async def test_a_connection_that_asks_to_be_a_websocket_is_counted_like_any_other() -> None:
    upgrade = b"Connection: Upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n"
    async with serving() as (port, rules):
        _, received = await exchange(port, GET[:-2] + upgrade)

    assert received.startswith(b"HTTP/1.1 200 ")
    assert not rules.open
