"""Sends what is due: many webhooks at once, few to one place, so that nobody waits for a receiver that hangs."""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence

import httpcore2

from fluxserve.domain.errors import Unavailable
from fluxserve.domain.task import Task
from fluxserve.storage import AddressError, BlockedAddressError, raw, web_address
from fluxserve.tasks import Letter, Outbox
from fluxserve.webhooks import signing

log = logging.getLogger(__name__)

MOST = 512  # webhooks under way at once
MOST_OF_ONE = 8  # to one scheme, host and port
MOST_READ = 4096  # bytes of an answer
LEASE_EXTRA_SECONDS = 15.0  # beyond an attempt's own time, until another sender may take its webhook
LOOK_SECONDS = 2.0  # without a signal
TRY_AGAIN_SECONDS = 1.0
JITTER = 0.1  # of a gap, so that what failed together does not come again together
GONE = 410  # a receiver's word that it wants no more
NO_ANSWER = "no answer"  # whatever the reason: the log is not to tell what is behind a firewall


class Sender:
    """`render` makes a webhook's body of a task and the time. `gaps` are the seconds between attempts; after the last
    one it is given up. An attempt may take `seconds`. `backend` makes the connections, and so decides where to."""

    def __init__(
        self,
        *,
        outbox: Outbox,
        render: Callable[[Task, float], bytes],
        backend: httpcore2.AsyncNetworkBackend,
        gaps: Sequence[float],
        seconds: float,
    ) -> None:
        self._outbox = outbox
        self._render = render
        self._gaps = tuple(gaps)
        self._seconds = seconds
        self._pool = httpcore2.AsyncConnectionPool(
            network_backend=backend, max_connections=MOST, max_keepalive_connections=MOST // 8, keepalive_expiry=5.0
        )
        self._under_way: Counter[str] = Counter()
        self._sending: set[asyncio.Task[None]] = set()
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._loop = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Attempts under way are broken off: they are made again by whoever comes next."""
        tasks = [task for task in (self._loop, *self._sending) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._pool.aclose()

    async def _run(self) -> None:
        while True:
            try:
                await self._wait()
                await self._send_what_is_due()
            except Unavailable:
                log.warning("a pass of the webhooks could not be made, for the database is gone")
                await asyncio.sleep(TRY_AGAIN_SECONDS)
            except Exception:
                log.exception("a pass of the webhooks broke; going on")
                await asyncio.sleep(TRY_AGAIN_SECONDS)

    async def _wait(self) -> None:
        """Until there may be something to send: by a signal, by the clock, or because a place has become free."""
        post = self._outbox.signals.post
        next_in = await self._outbox.seconds_to_next()
        if not next_in or next_in > LOOK_SECONDS:  # what is due now was not taken for want of a place
            next_in = LOOK_SECONDS
        try:
            async with asyncio.timeout(next_in):
                await post.wait()
        except TimeoutError:
            pass
        post.clear()

    async def _send_what_is_due(self) -> None:
        while room := MOST - len(self._sending):
            letters = await self._outbox.take(
                self._seconds + LEASE_EXTRA_SECONDS, self._under_way, most_of_one=MOST_OF_ONE, most=room
            )
            if not letters:
                return
            for letter in letters:
                self._under_way[letter.origin] += 1
                sending = asyncio.create_task(self._send(letter))
                self._sending.add(sending)
                sending.add_done_callback(self._sending.discard)

    async def _send(self, letter: Letter) -> None:
        try:
            began = time.monotonic()
            status, error = await self._attempt(letter)
            is_delivered = status is not None and 200 <= status < 300
            is_last = is_delivered or status == GONE or letter.attempt > len(self._gaps)
            await self._outbox.record(
                letter,
                time.monotonic() - began,
                status,
                error,
                is_delivered=is_delivered,
                next_in=None if is_last else self._gap(letter.attempt),
            )
        except Exception:
            log.exception("an attempt to send %s could not be written down; it will be made again", letter.id)
        finally:
            self._under_way[letter.origin] -= 1
            if not self._under_way[letter.origin]:
                del self._under_way[letter.origin]
            self._outbox.signals.post.set()  # its place is free

    def _gap(self, attempt: int) -> float:
        return self._gaps[attempt - 1] * random.uniform(1, 1 + JITTER)

    async def _attempt(self, letter: Letter) -> tuple[int | None, str | None]:
        """The receiver's status; or None, and why there is none."""
        now = time.time()
        body = self._render(letter.task, now)
        try:
            url = web_address(letter.url)
            async with asyncio.timeout(self._seconds):
                return await self._post(letter, url.netloc.decode("ascii"), raw(url), int(now), body), None
        except AddressError as error:
            return None, str(error)
        except (TimeoutError, BlockedAddressError, httpcore2.TimeoutException, httpcore2.NetworkError):
            return None, NO_ANSWER
        except (httpcore2.ProtocolError, httpcore2.UnsupportedProtocol):
            return None, "its answer is not HTTP"

    async def _post(self, letter: Letter, host: str, url: httpcore2.URL, timestamp: int, body: bytes) -> int:
        headers = {
            "Host": host,
            "User-Agent": "fluxserve",
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **signing.headers(letter.secret, letter.id, timestamp, body),
        }
        async with self._pool.stream("POST", url, headers=list(headers.items()), content=body) as response:
            size = 0
            async for part in response.aiter_stream():  # a little is read, so that the connection may serve again
                size += len(part)
                if size > MOST_READ:
                    break
            status: int = response.status
            return status
