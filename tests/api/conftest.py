"""The doors on a real queue, without workers: tasks wait for ever, or end as a test says."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

import httpx2 as httpx
import pytest

from fluxserve.api import Context, Hosts, Inputs, Rates, create_app
from fluxserve.domain.catalog import abilities
from fluxserve.domain.task import Ending, Task
from fluxserve.storage import Fetcher, GuardedBackend, Opener, Shelf
from fluxserve.tasks import Accounts, Database, Held, Queue, Rules, migrate, open_engine

KEY = "the-key-of-the-tests"
REQUESTS_PER_MINUTE = 300
ORIGIN = "https://shop.test"  # of another server's pages that may call


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Door:
    client: httpx.AsyncClient
    queue: Queue
    shelf: Shelf
    accounts: Accounts
    account_id: str

    async def create(self, **fields: object) -> str:
        """A task of one little cat. Returns its id."""
        answer = await self.client.post("/api/v1/task", json=cat(**fields))  # type: ignore[arg-type]
        assert answer.status_code == 200, answer.text
        task_id: str = answer.json()["data"]["task_id"]
        return task_id

    async def end(self, task_id: str, ending: Ending) -> Task:
        (task,) = await self.queue.claim([task_id])
        after = await self.queue.finish(Held(task.id, task.attempt), ending)
        assert after is not None
        return after


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    engine = open_engine(tmp_path / "queue.sqlite")
    migrate(engine)
    database = Database(engine)
    accounts = Accounts(database)
    account = await accounts.ensure_first(credits_usd=1, max_concurrent=100)
    await accounts.set_first_key(account.id, KEY)
    queue = Queue(database, Rules())
    shelf = Shelf(tmp_path / "pictures")
    opener = Opener()
    inputs = Inputs(
        shelf=shelf,
        queue=queue,
        fetcher=Fetcher(GuardedBackend([ip_network("127.0.0.1/32")]), most_bytes=50_000, seconds=5),
        opener=opener,
        own_pictures="http://pictures.test/files/",
        largest=50_000,
    )
    app = create_app(
        Context(
            queue=queue,
            accounts=accounts,
            shelf=shelf,
            inputs=inputs,
            rates=Rates(REQUESTS_PER_MINUTE),
            hosts=Hosts(frozenset({"fluxserve.test"})),
            origins=frozenset({ORIGIN}),
            public_url="http://pictures.test",
            largest_body=100_000,
            abilities=abilities("flux1"),  # everything there is
            lora_names=lambda: frozenset({"mjv6", "anime", "MyOwn"}),
            can_draw=lambda: False,
            doing=lambda: {"cpu": "loading"},
        )
    )
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://fluxserve.test", headers={"X-API-Key": KEY}
    ) as client:
        yield Door(client, queue, shelf, accounts, account.id)
    await opener.stop()
    database.close()


def cat(model: str = "Qubico/flux1-schnell", **fields: object) -> dict[str, object]:
    return {"model": model, "task_type": "txt2img", "input": {"prompt": "a little cat", **fields}}
