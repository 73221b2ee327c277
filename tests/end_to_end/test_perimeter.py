"""The real server under clients that mean no good: slow ones, greedy ones, other people's pages, guessers."""

import contextlib
import itertools
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.end_to_end.serving import KEY, Server, body, free_port, until

SECONDS = 2
SLACK = 5  # seconds more, for a machine that is busy
CONNECTIONS = 30
REQUESTS = 100
CREATE = "/api/v1/task"
ORIGIN = "https://shop.example.com"
POST = b"POST /api/v1/task HTTP/1.1\r\nHost: localhost\r\nX-API-Key: " + KEY.encode() + b"\r\n"

LONG_BODY = b"Content-Length: 10000\r\n\r\n{"
SLOW = {  # what is sent at once, what then again and again, and how it is answered
    "nothing": (b"", b"", b""),
    "half a head": (POST, b"", b""),
    "a head byte by byte": (POST + b"X-Slow: ", b"a", b""),
    "half a body": (POST + LONG_BODY, b"", b"HTTP/1.1 408 "),
    "a body byte by byte": (POST + LONG_BODY, b" ", b"HTTP/1.1 408 "),
    "a body behind a wrong key": (POST.replace(KEY.encode(), b"wrong") + LONG_BODY, b" ", b"HTTP/1.1 401 "),
}


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of short patience. It need not draw."""
    server = Server(
        tmp_path_factory.mktemp("strict") / "data",
        free_port(),
        FLUXSERVE_REQUEST_SECONDS=str(SECONDS),
        FLUXSERVE_CONNECTIONS_OF_ONE=str(CONNECTIONS),
        FLUXSERVE_REQUESTS_PER_MINUTE=str(REQUESTS),
        FLUXSERVE_ORIGINS=ORIGIN,
        FLUXSERVE_PUBLIC_URL="https://pictures.example.com",
    )
    server.start()
    server.wait_until("/api/docs")
    yield server
    server.kill()


def held(server: Server, sent: bytes, again: bytes) -> tuple[float, bytes]:
    """How long the server bore it, and what it said."""
    began, received = time.monotonic(), b""
    with socket.create_connection(("127.0.0.1", server.port)) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(sent)
        connection.settimeout(0.2)
        while time.monotonic() - began < SECONDS + 2 * SLACK:
            with contextlib.suppress(TimeoutError):
                part = connection.recv(65536)
                if not part:
                    break
                received += part
            connection.sendall(again)
    return time.monotonic() - began, received


def test_whoever_is_slow_is_closed_in_time_while_others_are_served(strict: Server) -> None:
    with ThreadPoolExecutor(len(SLOW) * 3) as threads, strict.client() as client:
        slow = [
            (words, answer, threads.submit(held, strict, sent, again))
            for words, (sent, again, answer) in SLOW.items()
            for _ in range(3)
        ]
        assert {client.get("/api/docs").status_code for _ in range(20)} == {200}
        ends = [(words, answer, *each.result()) for words, answer, each in slow]

    for words, answer, seconds, received in ends:
        assert (words, received[:13]) == (words, answer)
        assert (words, seconds < SECONDS + SLACK) == (words, True)


def test_who_is_late_is_told_so_in_the_form_of_the_door(strict: Server) -> None:
    _, received = held(strict, POST + LONG_BODY, b"")

    assert received.endswith(
        b'{"code":408,"data":null,"message":"request: it took longer to arrive than the 2 s that '
        b'FLUXSERVE_REQUEST_SECONDS allows"}'
    )


def test_one_client_does_not_take_all_connections(strict: Server) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(CONNECTIONS):
            stack.enter_context(socket.create_connection(("127.0.0.1", strict.port)))
        _, received = held(strict, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", b"")

    assert received == b""
    strict.wait_until("/api/docs")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("localhost:1", 200),
        ("[::1]", 200),
        ("pictures.example.com", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("192.168.1.7", 421),
        ("0.0.0.0", 421),
    ],
)
def test_a_name_that_is_not_ours_leads_nowhere(strict: Server, host: str, status: int) -> None:
    with strict.client() as client:
        assert client.get("/api/docs", headers={"Host": host}).status_code == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (ORIGIN, 200),
        ("https://pictures.example.com", 200),
        ("https://evil.example", 403),
        ("null", 403),
        (f"{ORIGIN}.evil.example", 403),
    ],
)
def test_a_strangers_page_creates_no_task(strict: Server, origin: str, status: int) -> None:
    with strict.client() as client:
        answer = client.post(CREATE, json=body(), headers={"Origin": origin})

    assert answer.status_code == status
    assert answer.headers.get("access-control-allow-origin") == (ORIGIN if origin == ORIGIN else None)


def test_a_key_has_its_requests_a_minute_and_no_guesser_has_many(strict: Server) -> None:
    def status(key: str) -> int:
        return client.get(f"{CREATE}/x", headers={"X-API-Key": key}).status_code

    guesses = (f"guess {number}" for number in itertools.count())
    with strict.client() as client:
        until(lambda: status(KEY) == 429, 60, "the key came too often")
        until(lambda: status(next(guesses)) == 429, 60, "the guesser was not listened to")
    assert "Traceback" not in strict.log.read_text()
