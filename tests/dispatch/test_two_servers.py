"""Two servers' floors over one PostgreSQL and one shelf, each with a worker of its own."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fluxserve.dispatch import Dispatcher, dispatcher
from fluxserve.domain.generation import Generation, TextToImage
from fluxserve.domain.task import State, Submission, Task
from fluxserve.executors import LocalExecutor
from fluxserve.storage import Shelf
from fluxserve.tasks import Accounts, Database, Listener, Queue, Rules, open_postgresql
from tests.executors.conftest import command
from tests.postgresql import Postgres

pytestmark = pytest.mark.anyio

LONG = 60.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class House:
    database: Database
    queue: Queue
    listener: Listener
    executor: LocalExecutor
    dispatcher: Dispatcher

    async def start(self) -> None:
        self.listener.start()
        self.executor.start()
        self.dispatcher.start()
        async with asyncio.timeout(LONG):
            while not self.executor.can_draw:
                await asyncio.sleep(0.02)

    async def stop(self, within_seconds: float = 0) -> None:
        await self.dispatcher.stop(within_seconds, asyncio.Event())
        await self.executor.stop()
        await self.listener.stop()

    async def submit(self, script: str) -> Task:
        account = await Accounts(self.database).ensure_first(credits_usd=10, max_concurrent=100)
        generation = Generation("flux1-schnell", TextToImage(script), 64, 64, 1, None, 5)
        return await self.queue.submit(Submission(account.id, {}, generation))

    async def reaches(self, task: Task, state: State, attempt: int) -> Task:
        async with asyncio.timeout(LONG):
            while ((now := await self.queue.get(task.account_id, task.id)).state, now.attempt) != (state, attempt):
                await asyncio.sleep(0.02)
        return now


def house(address: str, folder: Path) -> House:
    database = Database(open_postgresql(address))
    queue = Queue(database, Rules())
    executor = LocalExecutor([command()], silence_seconds=LONG, stall_seconds=LONG)
    floor = Dispatcher(
        queue=queue, executor=executor, shelf=Shelf(folder), keep_seconds=60, renew_every=1.0, progress_every=0.02
    )
    return House(database, queue, Listener(database, queue.signals), executor, floor)


@pytest.fixture
async def houses(postgresql: Postgres, tmp_path: Path) -> AsyncIterator[tuple[House, House]]:
    address = postgresql.fresh()
    both = house(address, tmp_path), house(address, tmp_path)
    yield both
    assert await both[0].queue.audit() == []
    for each in both:
        each.database.close()


async def test_what_a_server_that_stops_gives_back_the_other_draws_at_once(houses: tuple[House, House]) -> None:
    first, second = houses
    await first.start()
    tasks = [await first.submit("hang") for _ in range(2)]  # one is drawn, one lies ready
    for task in tasks:
        await first.reaches(task, State.PROCESSING, 1)
    await second.start()

    await first.stop()

    for task in tasks:  # there is no upkeep here, which would rescue them once their leases have run out
        assert (await second.reaches(task, State.PROCESSING, 2)).losses == 0
    await second.stop()


async def test_a_task_submitted_at_one_is_drawn_by_the_other(houses: tuple[House, House]) -> None:
    first, second = houses
    await second.start()

    task = await first.submit("a cat")

    assert (await first.reaches(task, State.COMPLETED, 1)).outputs
    await second.stop()


async def test_a_server_whose_database_is_gone_stops_all_the_same_and_another_goes_on_with_its_tasks(
    houses: tuple[House, House], postgresql: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "LAST_SECONDS", 0.5)
    first, second = houses
    await first.start()
    drawn, ready = [await first.submit(script) for script in ("wait " * 8, "hang")]
    for task in (drawn, ready):
        await first.reaches(task, State.PROCESSING, 1)
    name = first.database.engine.url.database
    postgresql.run(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    postgresql.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 'fresh_%'")

    await asyncio.wait_for(first.stop(within_seconds=1.0), LONG)

    postgresql.run(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    assert await second.queue.rescue() == []  # the leases hold
    rescued = await second.queue.rescue(everything=True)
    assert {task.id for task in rescued} == {drawn.id, ready.id}
    await second.start()
    await second.reaches(drawn, State.COMPLETED, 2)
    await second.stop()
