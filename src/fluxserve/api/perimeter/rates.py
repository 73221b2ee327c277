"""Rates: how many requests a minute come with one key, and how many wrong keys from one client.

They are counted in this process's memory: a restart forgets them, and two servers count apart.
"""

import math
import time

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from fluxserve.domain.errors import TooMany

WRONG_KEYS_PER_MINUTE = 60
STORES = 256


class Rates:
    """`requests_per_minute` of 0 is no limit."""

    def __init__(self, requests_per_minute: int) -> None:
        self._requests = _Minutes(requests_per_minute) if requests_per_minute else None
        self._wrong_keys = _Minutes(WRONG_KEYS_PER_MINUTE)
        self._same_wrong_key = _Minutes(1)

    async def count(self, key: str) -> None:
        """A request came with this key of ours. Raises `TooMany`."""
        if self._requests is not None and not await self._requests.add(key):
            raise TooMany(
                f"requests: more than {self._requests.most} in a minute came with this key, which is all that "
                "FLUXSERVE_REQUESTS_PER_MINUTE allows; Retry-After says when to come again",
                await self._requests.seconds_until_free(key),
            )

    async def count_wrong(self, client: str, key: str) -> None:
        """`client` tried a key that is none of ours. The same one again is no new guess, but a program left behind.

        Raises `TooMany` once there were so many that it seems to be guessing. A key of ours is let in all the same: it
        may belong to another program behind the same address.
        """
        if not await self._same_wrong_key.add(f"{client} {key}") or await self._wrong_keys.add(client):
            return
        raise TooMany(
            f"keys: {WRONG_KEYS_PER_MINUTE} wrong ones in a minute came from {client}; Retry-After says when to come "
            "again",
            await self._wrong_keys.seconds_until_free(client),
        )


class _Minutes:
    """At most so many of each name in a minute: what came in this one, and a part of what came in the one before."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._limit = RateLimitItemPerMinute(most)
        # A store looks through all of its names whenever it counts one. With many stores each has few.
        self._stores = [SlidingWindowCounterRateLimiter(MemoryStorage()) for _ in range(STORES)]

    async def add(self, name: str) -> bool:
        """Count one more, unless that is too many."""
        return await self._store(name).hit(self._limit, name)

    async def seconds_until_free(self, name: str) -> int:
        free_at = (await self._store(name).get_window_stats(self._limit, name)).reset_time
        return max(1, math.ceil(free_at - time.time()))

    def _store(self, name: str) -> SlidingWindowCounterRateLimiter:
        return self._stores[hash(name) % STORES]
