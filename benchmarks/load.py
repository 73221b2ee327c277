"""Callers that ask again as soon as they are answered, and what they saw."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from benchmarks.connection import Connection

Ask = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Load:
    """What one run saw: seconds of each answer, of the whole run, and of this process's CPU time meanwhile."""

    latencies: list[float]
    seconds: float
    cpu_seconds: float

    @property
    def per_second(self) -> float:
        return len(self.latencies) / self.seconds


async def keep_asking(callers: Sequence[Ask], seconds: float) -> Load:
    """Each caller asks until the time is up, and waits for its last answer. At least once."""
    latencies: list[float] = []
    cpu, began = time.process_time(), time.perf_counter()

    async def keep_one_asking(ask: Ask) -> None:
        now = began
        while now - began < seconds or now == began:
            asked = time.perf_counter()
            await ask()
            now = time.perf_counter()
            latencies.append(now - asked)

    await asyncio.gather(*(keep_one_asking(ask) for ask in callers))
    return Load(latencies, time.perf_counter() - began, time.process_time() - cpu)


def post(url: str, path: str, body: bytes, keys: Sequence[str], callers: int, seconds: float) -> Load:
    """`callers` keep-alive connections that post `body`, each request with the next of `keys`."""
    return asyncio.run(_post(url, path, body, keys, callers, seconds))


async def _post(url: str, path: str, body: bytes, keys: Sequence[str], callers: int, seconds: float) -> Load:
    connections = [await Connection.open(url) for _ in range(callers)]
    turns = itertools.cycle(keys)

    def caller(connection: Connection) -> Ask:
        async def ask() -> None:
            status, answer = await connection.request("POST", path, next(turns), body)
            if status != 200:
                raise RuntimeError(f"{path} answered {status}: {answer.decode(errors='replace')}")

        return ask

    try:
        return await keep_asking([caller(connection) for connection in connections], seconds)
    finally:
        for connection in connections:
            connection.close()
