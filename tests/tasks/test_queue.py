"""The queue as the house uses it: awaited, with its signals."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import Connection, Engine

from fluxserve.domain.errors import TooMany
from fluxserve.domain.task import Completed, State, Submission
from fluxserve.tasks import Accounts, Database, Held, Queue, Rules
from tests.tasks.conftest import PICTURE, picture

pytestmark = pytest.mark.anyio


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self, _connection: Connection) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def house(engine: Engine, clock: Clock) -> AsyncIterator[tuple[Queue, str]]:
    database = Database(engine)
    account = await Accounts(database).ensure_first(credits_usd=1, max_concurrent=2)
    yield Queue(database, Rules(lease_seconds=30, losses_allowed=3, most_staged=5), clock=clock), account.id
    database.close()


async def test_a_task_goes_its_whole_way(house: tuple[Queue, str]) -> None:
    queue, account_id = house
    submitted = await queue.submit(Submission(account_id, {"model": "m"}, PICTURE))
    assert queue.signals.wake.is_set()

    assert [task.task_id for task in await queue.waiting(5)] == [submitted.id]
    (task,) = await queue.claim([submitted.id])
    held = Held(task.id, task.attempt)
    assert await queue.progress(held, 2)
    assert await queue.renew([held]) == {held}
    done = await queue.finish(held, Completed((picture("one"),)))

    assert done == await queue.get(account_id, task.id)
    assert done is not None
    assert done.state is State.COMPLETED
    assert (await queue.stored("one")).key == "one.png"
    assert await queue.audit() == []


async def test_when_too_much_waits_over_all_accounts_nothing_more_is_taken_in(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fluxserve.tasks.queue.COUNT_SECONDS", 0.0)
    database = Database(engine)
    accounts, queue = Accounts(database), Queue(database, Rules(most_waiting=3))
    owners = [await accounts.create("", credits_usd=1, max_concurrent=1) for _ in range(2)]
    for owner in (owners[0], owners[0], owners[1]):
        submitted = await queue.submit(Submission(owner.id, {}, PICTURE))

    with pytest.raises(TooMany, match="queue: 3 tasks of all accounts wait, and FLUXSERVE_MOST_WAITING allows 3"):
        await queue.submit(Submission(owners[1].id, {}, PICTURE))
    assert (await accounts.get(owners[1].id)).frozen == submitted.price

    await queue.claim([submitted.id])
    assert await queue.submit(Submission(owners[1].id, {}, PICTURE))
    database.close()


async def test_rescuing_and_finishing_wake_whoever_hands_tasks_out(house: tuple[Queue, str], clock: Clock) -> None:
    queue, account_id = house
    task = await queue.submit(Submission(account_id, {}, PICTURE))
    await queue.claim([task.id])
    queue.signals.wake.clear()

    assert await queue.rescue() == []
    assert not queue.signals.wake.is_set()
    clock.now += 31
    assert [each.id for each in await queue.rescue()] == [task.id]
    assert queue.signals.wake.is_set()


async def test_a_wish_to_cancel_gives_its_own_signal(house: tuple[Queue, str]) -> None:
    queue, account_id = house
    task = await queue.submit(Submission(account_id, {}, PICTURE))
    (claimed,) = await queue.claim([task.id])

    await queue.cancel(account_id, task.id)

    assert queue.signals.cancel_wished.is_set()
    assert await queue.wished_cancelled() == [Held(claimed.id, claimed.attempt)]


async def test_expired_pictures_are_listed_until_they_are_swept(house: tuple[Queue, str], clock: Clock) -> None:
    queue, account_id = house
    task = await queue.submit(Submission(account_id, {}, PICTURE))
    (claimed,) = await queue.claim([task.id])
    await queue.finish(Held(task.id, claimed.attempt), Completed((picture("one", expires_at=2000.0),)))
    clock.now = 3000.0

    assert [output.id for output in await queue.expired_outputs(10)] == ["one"]
    await queue.mark_swept(["one"])
    assert await queue.expired_outputs(10) == []


async def test_a_task_of_a_dead_server_is_rescued_in_time_though_the_clock_was_set_back(
    house: tuple[Queue, str], clock: Clock
) -> None:
    queue, account_id = house
    task = await queue.submit(Submission(account_id, {}, PICTURE))
    await queue.claim([task.id])

    clock.now -= 600
    assert await queue.rescue() == []
    clock.now += 31

    assert [rescued.id for rescued in await queue.rescue()] == [task.id]
