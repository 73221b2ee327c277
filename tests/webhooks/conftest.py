"""A real outbox on both databases, whose tasks end as a test says."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_network

import pytest
from sqlalchemy import Engine

from fluxserve.domain.task import Errored, Submission, Task, Webhook
from fluxserve.storage import GuardedBackend
from fluxserve.tasks import Accounts, Database, DeliveryLog, Held, Outbox, Queue, Rules
from fluxserve.tasks.signals import POST
from fluxserve.webhooks import Sender
from tests.tasks.conftest import PICTURE, anyio_backend, engine

__all__ = ["anyio_backend", "engine"]

OURS = ip_network("127.0.0.1/32")


def told(task: Task, now: float) -> bytes:
    """A webhook's body; what a vendor's door says in it is tested there."""
    return json.dumps(
        {"timestamp": int(now), "data": {"task_id": task.id, "status": task.state, "output": None}}
    ).encode()


class Post:
    def __init__(self, engine: Engine, database: Database, account_id: str) -> None:
        self.engine = engine
        self.queue = Queue(database, Rules())
        self.outbox = Outbox(
            database, self.queue.signals, clock=lambda connection: database.now(connection) + self._ahead
        )
        self._account_id = account_id
        self._ahead = 0.0

    async def ended(self, url: str, secret: str = "") -> str:
        """The id of a task that has just failed, and whose caller wants to hear of it."""
        task = await self.queue.submit(Submission(self._account_id, {}, PICTURE, webhook=Webhook(url, secret)))
        (claimed,) = await self.queue.claim([task.id])
        await self.queue.finish(Held(task.id, claimed.attempt), Errored("drawing_failed", "it broke"))
        return task.id

    async def all_ended(self, *urls: str) -> list[str]:
        return await asyncio.gather(*(self.ended(url) for url in urls))

    async def log(self, task_id: str) -> DeliveryLog:
        return await self.outbox.log(None, task_id)

    async def over(self, task_id: str) -> DeliveryLog:
        """Once it was delivered or given up."""
        while (log := await self.log(task_id)).next_at is not None:
            await asyncio.sleep(0.01)
        return log

    def pass_time(self, seconds: float) -> None:
        """For the outbox: leases end and gaps pass."""
        self._ahead += seconds
        self.queue.signals.give(POST)

    @asynccontextmanager
    async def sending(
        self,
        *,
        gaps: Sequence[float] = (),
        seconds: float = 10.0,
        backend: GuardedBackend | None = None,
        render: Callable[[Task, float], bytes] = told,
    ) -> AsyncIterator[Sender]:
        sender = Sender(
            outbox=self.outbox,
            render=render,
            backend=backend or GuardedBackend([OURS]),
            gaps=gaps,
            seconds=seconds,
        )
        sender.start()
        try:
            yield sender
        finally:
            await sender.stop()


@pytest.fixture
async def post(engine: Engine) -> AsyncIterator[Post]:
    database = Database(engine)
    account = await Accounts(database).ensure_first(credits_usd=100, max_concurrent=1000)
    yield Post(engine, database, account.id)
    database.close()


async def until(happened: Callable[[], object], seconds: float = 60.0) -> float:
    """Wait for something. Returns how long it took."""
    began = time.monotonic()
    while not happened():
        assert time.monotonic() - began < seconds, "it did not happen"
        await asyncio.sleep(0.01)
    return time.monotonic() - began
