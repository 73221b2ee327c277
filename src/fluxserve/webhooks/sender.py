"""Sends what is due: many webhooks at once, few to one place, so that nobody waits for a receiver that hangs."""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress

import httpcore2

from fluxserve.domain.errors import Unavailable
from fluxserve.domain.task import Task
from fluxserve.storage import AddressError, BlockedAddressError, raw, web_address
from fluxserve.tasks import Letter, Outbox
from fluxserve.webhooks import signing

log = logging.getLogger(__name__)

MOST = 512  # webhooks under way at once
MOST_OF_ONE = 8  # to one scheme, host and port; fewer when many are under way
MOST_READ = 4096  # bytes of an answer's body
READ_SECONDS = 1.0  # that we wait for its end
LEASE_EXTRA_SECONDS = 15.0  # beyond an attempt's own time, until another sender may take its webhook
LOOK_SECONDS = 2.0  # without a signal
TRY_AGAIN_SECONDS = 1.0
JITTER = 0.1  # of a gap, so that what failed together does not come again together
GONE = 410  # a receiver's word that it wants no more
NO_ANSWER = "no HTTP answer"  # whatever the reason: the log is not to tell what is behind a firewall
FAULTS = (httpcore2.TimeoutException, httpcore2.NetworkError, httpcore2.ProtocolError)  # a receiver's
OUR_FAULT = "it could not be sent; the server's log says why"


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
        post = self._outbox.signals.post
        while True:
            try:
                post.clear()  # before the look: what comes while we look is looked for again
                next_in = await self._send_what_is_due()
                with suppress(TimeoutError):
                    async with asyncio.timeout(next_in):
                        await post.wait()
            except Unavailable:
                log.warning("a pass of the webhooks could not be made, for the database is gone")
                await asyncio.sleep(TRY_AGAIN_SECONDS)
            except Exception:
                log.exception("a pass of the webhooks broke; going on")
                await asyncio.sleep(TRY_AGAIN_SECONDS)

    async def _send_what_is_due(self) -> float:
        """All that there is a place for. Returns in how many seconds to look again, should no signal come."""
        while True:
            letters, next_in = await self._outbox.take(
                self._seconds + LEASE_EXTRA_SECONDS, self._under_way, most_of_one=MOST_OF_ONE, most=MOST
            )
            if not letters:
                return LOOK_SECONDS if next_in is None else min(next_in, LOOK_SECONDS)
            for letter in letters:
                self._under_way[letter.origin] += 1
                sending = asyncio.create_task(self._send(letter))
                self._sending.add(sending)
                sending.add_done_callback(self._sending.discard)

    async def _send(self, letter: Letter) -> None:
        try:
            task = await self._outbox.task(letter)
            began = time.monotonic()
            status, error = await self._attempt(letter, task)
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

    async def _attempt(self, letter: Letter, task: Task) -> tuple[int | None, str | None]:
        """The receiver's status; or None, and why there is none."""
        try:
            return await self._post(letter, task), None
        except AddressError as error:
            return None, str(error)
        except (TimeoutError, BlockedAddressError, *FAULTS):
            return None, NO_ANSWER
        except Exception:  # else it would be made again for ever
            log.exception("%s could not be sent", letter.id)
            return None, OUR_FAULT

    async def _post(self, letter: Letter, task: Task) -> int:
        now = time.time()
        body = self._render(task, now)
        url = web_address(letter.url)
        headers = {
            "Host": url.netloc.decode("ascii"),
            "User-Agent": "fluxserve",
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **signing.headers(letter.secret, letter.id, int(now), body),
        }
        status: int | None = None
        try:
            async with (
                asyncio.timeout(self._seconds) as limit,
                self._pool.stream("POST", raw(url), headers=list(headers.items()), content=body) as response,
            ):
                status = response.status
                limit.reschedule(asyncio.get_running_loop().time() + READ_SECONDS)
                await _read_a_little(response)
        except (TimeoutError, *FAULTS):
            if status is None:  # else the answer is there, and what was wrong with the rest of it does not matter
                raise
        return status


async def _read_a_little(response: httpcore2.Response) -> None:
    """A connection whose answer was read to its end may serve again; any other is closed."""
    size = 0
    async with aclosing(response.aiter_stream()) as parts:
        async for part in parts:
            size += len(part)
            if size > MOST_READ:
                return
