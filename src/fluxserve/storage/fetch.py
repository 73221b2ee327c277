"""Fetches what a caller's URL names: guarded, at most so large, in at most so long."""

import asyncio
import time

import httpcore2
import httpx2

from fluxserve.storage.addresses import AddressError, raw, web_address
from fluxserve.storage.guard import BlockedAddressError

REDIRECTS = (301, 302, 303, 307, 308)
MOST_REDIRECTS = 3
HEADERS = (("User-Agent", "fluxserve"), ("Accept", "image/*"), ("Accept-Encoding", "identity"))


class FetchError(Exception):
    """It could not be fetched; the message says why, in words for the caller."""


class Fetcher:
    """`backend` makes the connections, and so decides where to."""

    def __init__(
        self, backend: httpcore2.AsyncNetworkBackend, *, most_bytes: int, seconds: float, connect_seconds: float = 10.0
    ) -> None:
        self._backend = backend
        self._most_bytes = most_bytes
        self._seconds = seconds
        self._connect_seconds = connect_seconds

    async def fetch(self, url: str) -> bytes:
        """The body of `url`, after at most three redirects. Raises `FetchError`."""
        began = time.monotonic()
        try:
            async with (
                asyncio.timeout(self._seconds),
                httpcore2.AsyncConnectionPool(network_backend=self._backend) as pool,
            ):
                target = web_address(url)
                for _ in range(MOST_REDIRECTS + 1):
                    answer = await self._get(pool, target)
                    if isinstance(answer, bytes):
                        return answer
                    target = answer
        except TimeoutError:
            raise FetchError(f"it was not there after {time.monotonic() - began:.1f} s") from None
        except AddressError as error:
            raise FetchError(str(error)) from None
        except BlockedAddressError as error:
            raise FetchError(f"it is not fetched: {error}") from None
        except httpcore2.TimeoutException:
            raise FetchError(f"its server did not answer within {self._connect_seconds:g} s") from None
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.UnsupportedProtocol) as error:
            raise FetchError(f"its server could not be reached or understood: {error}") from None
        raise FetchError(f"it redirects more than {MOST_REDIRECTS} times")

    async def _get(self, pool: httpcore2.AsyncConnectionPool, url: httpx2.URL) -> bytes | httpx2.URL:
        """The body, or where it redirects to."""
        timeouts = {"connect": self._connect_seconds, "read": self._seconds, "write": self._connect_seconds}
        async with pool.stream(
            "GET",
            raw(url),
            headers=[*HEADERS, ("Host", url.netloc.decode("ascii"))],
            extensions={"timeout": timeouts},
        ) as response:
            headers = {name.lower(): value for name, value in response.headers}
            if response.status in REDIRECTS and b"location" in headers:
                return web_address(str(url.join(headers[b"location"].decode("latin-1"))))
            if response.status != 200:
                raise FetchError(f"its server answered with status {response.status}")
            if headers.get(b"content-encoding", b"identity").lower() not in (b"identity", b""):
                raise FetchError("its server sent it compressed, though that was not asked for")
            return await self._body(response, headers)

    async def _body(self, response: httpcore2.Response, headers: dict[bytes, bytes]) -> bytes:
        declared = headers.get(b"content-length", b"")
        if len(declared) > 12 or (declared.isdigit() and int(declared) > self._most_bytes):
            raise FetchError(f"it has {declared[:20].decode('latin-1')} bytes; at most {self._most_bytes} are fetched")
        parts, size = [], 0
        async for part in response.aiter_stream():
            size += len(part)
            if size > self._most_bytes:
                raise FetchError(f"it has more than the {self._most_bytes} bytes that are fetched")
            parts.append(part)
        return b"".join(parts)
