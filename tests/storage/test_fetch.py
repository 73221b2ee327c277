"""A caller's URL is fetched within bounds, and a failure says why."""

import asyncio
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_network

import pytest

from fluxserve.storage.fetch import Fetcher, FetchError
from fluxserve.storage.guard import GuardedBackend

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nbytes"


class Web:
    """A server of raw answers: path -> bytes, or a coroutine that writes."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes | Callable[[asyncio.StreamWriter], object]] = {}
        self.requests: list[bytes] = []
        self.url = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        self.requests.append(request)
        answer = self.answers[request.split()[1].decode()]
        try:
            if isinstance(answer, bytes):
                writer.write(answer)
            else:
                await answer(writer)  # type: ignore[misc]
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    web = Web()
    server = await asyncio.start_server(web.handle, "127.0.0.1", 0)
    web.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield web


def fetcher_of(seconds: float) -> Fetcher:
    backend = GuardedBackend([ip_network("127.0.0.1/32")])
    return Fetcher(backend, most_bytes=1000, seconds=seconds, connect_seconds=seconds)


@pytest.fixture
def fetcher() -> Fetcher:
    return fetcher_of(20)


async def test_a_body_is_fetched_without_saying_who_we_are(web: Web, fetcher: Fetcher) -> None:
    web.answers["/a.png?size=2"] = OK
    assert await fetcher.fetch(f"{web.url}/a.png?size=2#top") == b"bytes"
    (request,) = web.requests
    assert b"Accept-Encoding: identity" in request
    assert b"Cookie" not in request
    assert b"Authorization" not in request


def _redirect(to: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()


async def test_three_redirects_are_followed(web: Web, fetcher: Fetcher) -> None:
    web.answers |= {"/0": _redirect("/1"), "/1": _redirect(f"{web.url}/2"), "/2": _redirect("3"), "/3": OK}
    assert await fetcher.fetch(f"{web.url}/0") == b"bytes"


async def test_four_are_not(web: Web, fetcher: Fetcher) -> None:
    web.answers["/0"] = _redirect("/0")
    with pytest.raises(FetchError, match="redirects more than 3 times"):
        await fetcher.fetch(f"{web.url}/0")


@pytest.mark.parametrize(
    "to", ["http://169.254.169.254/latest", "http://[::1]/", "file:///etc/passwd", "gopher://x/", "//127.0.0.2/"]
)
async def test_a_redirect_inside_is_not_followed(web: Web, fetcher: Fetcher, to: str) -> None:
    web.answers["/0"] = _redirect(to)
    with pytest.raises(FetchError):
        await fetcher.fetch(f"{web.url}/0")
    assert len(web.requests) == 1


@pytest.mark.parametrize("status", ["404 Not Found", "403 Forbidden", "500 Oops", "204 No Content", "206 Partial"])
async def test_any_status_but_200_is_told(web: Web, fetcher: Fetcher, status: str) -> None:
    web.answers["/a"] = f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
    with pytest.raises(FetchError, match=f"status {status[:3]}"):
        await fetcher.fetch(f"{web.url}/a")


async def test_a_declared_size_that_is_too_large_is_refused_unread(web: Web, fetcher: Fetcher) -> None:
    web.answers["/a"] = b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n"
    with pytest.raises(FetchError, match="1001 bytes; at most 1000"):
        await fetcher.fetch(f"{web.url}/a")


async def test_an_endless_body_is_cut(web: Web, fetcher: Fetcher) -> None:
    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"100\r\n" + b"x" * 256 + b"\r\n")
            await writer.drain()

    web.answers["/a"] = endless
    with pytest.raises(FetchError, match="more than the 1000 bytes"):
        await fetcher.fetch(f"{web.url}/a")


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"])
async def test_a_server_that_drips_is_left(web: Web, before: bytes) -> None:
    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(before)
        while True:
            writer.write(b"x" if before else b"H")
            await writer.drain()
            await asyncio.sleep(0.1)

    web.answers["/a"] = drip
    with pytest.raises(FetchError, match=r"not there after \d\.\d s"):
        await fetcher_of(0.5).fetch(f"{web.url}/a")


async def test_a_body_that_was_compressed_unasked_is_refused(web: Web, fetcher: Fetcher) -> None:
    web.answers["/a"] = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x1f\x8b"
    with pytest.raises(FetchError, match="compressed"):
        await fetcher.fetch(f"{web.url}/a")


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"])
async def test_a_server_that_makes_no_sense_is_told_of(web: Web, fetcher: Fetcher, answer: bytes) -> None:
    web.answers["/a"] = answer
    with pytest.raises(FetchError, match="could not be reached or understood"):
        await fetcher.fetch(f"{web.url}/a")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ftp://example.org/a.png", "only http and https"),
        ("file:///etc/passwd", "only http and https"),
        ("javascript:alert(1)", "only http and https"),
        ("a.png", "only http and https"),
        ("http://", "only http and https"),
        ("http://user:secret@example.org/a.png", "user name"),
        ("http://127.0.0.1:99999/", "99999"),
        ("http://exa mple.org/", "is not known"),
        ("http://[::1/", "can't be read"),
        ("http://example.org/" + "a" * 9000, "8000 characters"),
        ("http://nowhere.invalid/", "not known"),
    ],
)
async def test_what_is_no_address_of_the_web_is_refused(fetcher: Fetcher, url: str, why: str) -> None:
    with pytest.raises(FetchError, match=why):
        await fetcher.fetch(url)
