"""The doors on a real queue, without workers: tasks wait for ever, or end as a test says."""

import asyncio
import json
import secrets
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import Connection, Engine

from fluxserve.api import Context, Hosts, Inputs, Rates, Switchboard, create_app
from fluxserve.config import ImageSettings
from fluxserve.domain.catalog import abilities, qualities_of
from fluxserve.domain.task import Completed, Ending, Errored, Output, Task
from fluxserve.relay import Relay
from fluxserve.storage import Fetcher, GuardedBackend, Opener, Room, Shelf
from fluxserve.tasks import (
    Accounts,
    Completions,
    Database,
    Held,
    Outbox,
    Queue,
    Rules,
    migrate,
    open_postgresql,
    open_sqlite,
)
from tests.postgresql import Postgres

KEY = "the-key-of-the-tests"
ADMIN_KEY = "the-admin-key-of-the-tests"
PUBLIC_URL = "http://pictures.test"
ORIGIN = "https://shop.test"  # of another server's pages that may call


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Clock:
    """The database's, put forward by `ahead` seconds."""

    def __init__(self, database: Database) -> None:
        self.ahead = 0.0
        self._database = database

    def __call__(self, connection: Connection) -> float:
        return self._database.now(connection) + self.ahead


@dataclass
class Door:
    app: FastAPI
    context: Context
    client: httpx.AsyncClient
    clock: Clock
    queue: Queue
    outbox: Outbox
    shelf: Shelf
    accounts: Accounts
    account_id: str

    async def create(self, **fields: object) -> str:
        """A task of one little cat. Returns its id."""
        answer = await self.client.post("/api/v1/task", json=cat(**fields))  # type: ignore[arg-type]
        assert answer.status_code == 200, answer.text
        task_id: str = answer.json()["data"]["task_id"]
        return task_id

    async def claimed(self, task_id: str) -> Held:
        (task,) = await self.queue.claim([task_id])
        return Held(task.id, task.attempt)

    async def create_told(self, endpoint: str = "https://receiver.test/hook") -> str:
        """One whose end is told to a webhook. Returns its id."""
        body = cat() | {"config": {"webhook_config": {"endpoint": endpoint, "secret": "s"}}}
        task_id: str = (await self.client.post("/api/v1/task", json=body)).json()["data"]["task_id"]
        return task_id

    async def end(self, task_id: str, ending: Ending) -> Task:
        after = await self.queue.finish(await self.claimed(task_id), ending)
        assert after is not None
        return after

    @asynccontextmanager
    async def drawing(self, *, fails: Errored | None = None) -> AsyncIterator[None]:
        """Meanwhile every task that waits is completed with pictures that are none, or fails as said."""

        async def draw() -> None:
            while True:
                for waiting in await self.queue.waiting(10):
                    for task in await self.queue.claim([waiting.task_id]):  # none, if it was cancelled just now
                        held = Held(task.id, task.attempt)
                        await self.queue.finish(held, fails or Completed(tuple(self._drawn(task))))
                await asyncio.sleep(0.01)

        floor = asyncio.create_task(draw())
        try:
            yield
            assert not floor.done()
        finally:
            floor.cancel()
            await asyncio.wait([floor])

    def _drawn(self, task: Task) -> Iterator[Output]:
        asked = task.generation
        for seed in asked.seeds:
            picture_id, data = secrets.token_hex(16), f"a {asked.format} of seed {seed}".encode()
            key = f"{picture_id[::-1]}.{asked.format}"
            self.shelf.put(key, data)
            kind = f"image/{asked.format}"
            yield Output(picture_id, key, kind, len(data), asked.width, asked.height, seed, 1e12)

    async def data(self, task_id: str) -> dict[str, Any]:
        """The task as a poll tells it."""
        data: dict[str, Any] = (await self.client.get(f"/api/v1/task/{task_id}")).json()["data"]
        return data

    def client_with(self, key: str | None) -> httpx.AsyncClient:
        return _client(self.app, key)

    @asynccontextmanager
    async def stranger(self, **account: Any) -> AsyncIterator[httpx.AsyncClient]:
        """Somebody with an account of their own, and a dollar."""
        fields = {"credits_usd": 1.0, "max_concurrent": 100, **account}
        made = await self.accounts.create("stranger", **fields)
        _, key = await self.accounts.create_key(made.id)
        async with self.client_with(key) as client:
            yield client


class Line:
    """A caller's connection, as a server has it: the request is sent whole, and the caller hangs up when told to."""

    def __init__(self, door: Door, path: str, body: dict[str, Any], **headers: str) -> None:
        self._body: bytes | None = json.dumps(body).encode()
        self.hung_up = asyncio.Event()
        self.statuses: list[int] = []
        told = {"Host": "fluxserve.test", "X-API-Key": KEY, **headers}
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "scheme": "http",
            "method": "POST", "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"",
            "headers": [(name.lower().encode(), value.encode()) for name, value in told.items()],
            "client": ("127.0.0.1", 1), "server": ("fluxserve.test", 80),
        }  # fmt: skip
        self.answered = asyncio.create_task(door.app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.hung_up.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.statuses.append(message["status"])


def _client(app: FastAPI, key: str | None) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app, raise_app_exceptions=False),
        base_url="http://fluxserve.test",
        headers={"X-API-Key": key} if key else {},
    )


@asynccontextmanager
async def open_door(engine: Engine, folder: Path, **different: Any) -> AsyncIterator[Door]:
    """`different` are the context's fields, `rules` and `routes`, that shall not be as usual."""
    database = Database(engine)
    clock = Clock(database)
    accounts = Accounts(database, clock=clock)
    account = await accounts.ensure_first(credits_usd=1, max_concurrent=100)
    await accounts.set_first_key(account.id, KEY)
    room = Room([folder], least_free=1)
    queue = Queue(database, different.pop("rules", Rules()), clock=clock, check_room=room.check)
    outbox = Outbox(database, queue.signals, clock)
    shelf = Shelf(folder / "pictures")
    opener = Opener()
    inputs = Inputs(
        shelf=shelf,
        queue=queue,
        fetcher=Fetcher(GuardedBackend([ip_network("127.0.0.1/32")]), most_bytes=50_000, seconds=5),
        opener=opener,
        own_pictures=f"{PUBLIC_URL}/files/",
        largest=50_000,
        check_room=room.check,
    )
    completions = Completions(database, clock=clock, check_room=room.check)
    switchboard = Switchboard(relay=Relay(different.pop("routes", ())), completions=completions, renew_every=10)
    fields: dict[str, Any] = {
        "queue": queue,
        "accounts": accounts,
        "outbox": outbox,
        "shelf": shelf,
        "inputs": inputs,
        "switchboard": switchboard,
        "rates": Rates(0),  # no limit
        "hosts": Hosts(frozenset({"fluxserve.test"})),
        "origins": frozenset({ORIGIN}),
        "public_url": PUBLIC_URL,
        "largest_body": 100_000,
        "wait_seconds": 5.0,
        "qualities": qualities_of(ImageSettings().image_qualities),
        "abilities": abilities("flux1"),  # everything there is
        "lora_names": lambda: frozenset({"mjv6", "anime", "MyOwn"}),
        "can_draw": lambda: False,
        "doing": lambda: {"cpu": "loading"},
        "admin_key": ADMIN_KEY,
    }
    context = Context(**fields | different)
    app = create_app(context)
    door = Door(app, context, _client(app, KEY), clock, queue, outbox, shelf, accounts, account.id)
    async with door.client:
        yield door
    await switchboard.stop()
    assert await queue.audit() == []
    await opener.stop()
    database.close()


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database to be copied: that takes a tenth of the time that making one does."""
    path = tmp_path_factory.mktemp("migrated") / "queue.sqlite"
    engine = open_sqlite(path)
    migrate(engine)
    engine.dispose()
    return path


@pytest.fixture
def sqlite(migrated: Path, tmp_path: Path) -> Engine:
    """Migrated and empty; closed by the door."""
    return open_sqlite(Path(shutil.copy(migrated, tmp_path)))


@pytest.fixture
async def door(sqlite: Engine, tmp_path: Path) -> AsyncIterator[Door]:
    async with open_door(sqlite, tmp_path) as door:
        yield door


@pytest.fixture(params=["sqlite", "postgresql"])
async def each_door(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Door]:
    """On either database in turn."""
    if request.param == "sqlite":
        engine = request.getfixturevalue("sqlite")
    else:
        server: Postgres = request.getfixturevalue("postgresql")
        engine = open_postgresql(server.emptied())
    async with open_door(engine, tmp_path) as door:
        yield door


def cat(model: str = "Qubico/flux1-schnell", **fields: object) -> dict[str, Any]:
    return {"model": model, "task_type": "txt2img", "input": {"prompt": "a little cat", **fields}}


def picture(name: str) -> Output:
    return Output(name * 32, f"{name}{name}.png", "image/png", 3, 256, 256, 1, 1e12)
