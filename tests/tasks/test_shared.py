"""Two servers' queues on one PostgreSQL: together they keep what one alone promises, whatever becomes of their
connections."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, select, text

from fluxserve.domain.errors import NotEnoughCredits, Unavailable
from fluxserve.domain.task import Repeatable, State, Submission, Task
from fluxserve.tasks import Accounts, Database, Held, Listener, Queue, Rules, open_postgresql, verbs
from fluxserve.tasks.schema import accounts
from tests.postgresql import Postgres
from tests.tasks.conftest import LOSSES, PICTURE, PRICE

pytestmark = pytest.mark.anyio

LONG = 30.0
KEY = Repeatable("the key of one request", b"its body")


class House:
    """One server's part of it."""

    def __init__(self, address: str) -> None:
        self.database = Database(open_postgresql(address))
        self.accounts = Accounts(self.database)
        self.queue = Queue(self.database, Rules(most_staged=1000))
        self.signals = self.queue.signals

    async def submit(self, account_id: str, **more: Any) -> Task:
        return await self.queue.submit(Submission(account_id, {}, PICTURE, **more))


@pytest.fixture
def address(postgresql: Postgres) -> str:
    return postgresql.emptied()


@pytest.fixture
async def houses(address: str) -> AsyncIterator[tuple[House, House]]:
    both = House(address), House(address)
    yield both
    assert await both[0].queue.audit() == []
    for house in both:
        house.database.close()


@pytest.fixture
async def account_id(houses: tuple[House, House]) -> str:
    return (await houses[0].accounts.ensure_first(credits_usd=10, max_concurrent=1000)).id


# ---------------------------------------------------------------- together


async def test_a_task_is_claimed_by_one_of_them_however_many_ask_at_once(
    houses: tuple[House, House], account_id: str
) -> None:
    tasks = [await houses[number % 2].submit(account_id) for number in range(20)]
    ids = [task.id for task in tasks]

    claims = await asyncio.gather(*(house.queue.claim(ids) for _ in range(4) for house in houses))

    assert sorted(task.id for claimed in claims for task in claimed) == sorted(ids)


async def test_an_account_that_submits_at_both_does_no_more_at_once_than_it_may(
    houses: tuple[House, House], account_id: str
) -> None:
    await houses[0].accounts.limit(account_id, 5)

    tasks = await asyncio.gather(*(houses[number % 2].submit(account_id) for number in range(40)))

    assert [task.state for task in tasks].count(State.PENDING) == 5
    assert [task.state for task in tasks].count(State.STAGED) == 35


async def test_an_account_that_spends_at_both_spends_no_more_than_it_has(houses: tuple[House, House]) -> None:
    poor = await houses[0].accounts.create("poor", credits_usd=10 * PRICE / 10_000_000, max_concurrent=1000)

    answers = await asyncio.gather(
        *(houses[number % 2].submit(poor.id) for number in range(30)), return_exceptions=True
    )

    assert sum(isinstance(answer, Task) for answer in answers) == 10
    assert sum(isinstance(answer, NotEnoughCredits) for answer in answers) == 20
    assert (await houses[1].accounts.get(poor.id)).balance == 0


async def test_a_request_that_comes_to_both_at_once_makes_one_task(
    houses: tuple[House, House], account_id: str
) -> None:
    tasks = await asyncio.gather(*(houses[number % 2].submit(account_id, repeatable=KEY) for number in range(8)))

    assert len({task.id for task in tasks}) == 1


async def test_accounts_that_submit_at_both_in_any_order_are_in_nobodys_way(houses: tuple[House, House]) -> None:
    ids = [
        (await houses[0].accounts.create(f"account {number}", credits_usd=10, max_concurrent=1000)).id
        for number in range(10)
    ]

    async def deadlocks() -> int:
        found: int = await houses[0].database.read(
            lambda connection: connection.execute(
                text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
            ).scalar_one()
        )
        return found

    before = await deadlocks()
    await asyncio.gather(
        *(houses[0].submit(account_id) for account_id in ids * 5),
        *(houses[1].submit(account_id) for account_id in ids[::-1] * 5),
    )
    assert await deadlocks() == before


async def test_a_task_whose_lease_is_being_renewed_is_not_rescued(houses: tuple[House, House], account_id: str) -> None:
    task = await houses[0].submit(account_id)
    (claimed,) = await houses[0].queue.claim([task.id])
    late = 1e10  # its lease has run out long since

    with houses[0].database.engine.begin() as renewing, houses[1].database.engine.begin() as rescuing:
        verbs.renew(renewing, late, 30.0, [Held(claimed.id, claimed.attempt)])
        assert verbs.rescue(rescuing, late, LOSSES) == []


# ---------------------------------------------------------------- what they tell each other


@contextmanager
def listening(house: House) -> Iterator[Listener]:
    listener = Listener(house.database, house.signals)
    listener.start()
    yield listener


async def heard(event: asyncio.Event) -> float:
    """Seconds until it was."""
    began = time.monotonic()
    async with asyncio.timeout(LONG):
        await event.wait()
    event.clear()
    return time.monotonic() - began


async def test_a_submit_at_one_wakes_the_other_at_once(houses: tuple[House, House], account_id: str) -> None:
    with listening(houses[1]) as listener:
        await heard(houses[1].signals.wake)  # once it listens, for what it may have missed
        seconds = []
        for _ in range(5):
            await houses[0].submit(account_id)
            seconds.append(await heard(houses[1].signals.wake))
        await listener.stop()

    assert min(seconds) < 0.5


async def test_a_follower_at_one_hears_of_a_task_that_changes_at_the_other(
    houses: tuple[House, House], account_id: str
) -> None:
    task = await houses[0].submit(account_id)
    with listening(houses[1]) as listener, houses[1].signals.listening(task.id) as changed:
        await heard(houses[1].signals.wake)
        changed.clear()
        await houses[0].queue.cancel(account_id, task.id)
        await heard(changed)
        await heard(houses[1].signals.cancel_wished)
        await listener.stop()


async def test_a_listener_that_lost_its_connection_makes_another_and_gives_every_signal(
    houses: tuple[House, House], account_id: str, address: str
) -> None:
    signals = houses[1].signals
    with listening(houses[1]) as listener:
        await heard(signals.wake)
        signals.post.clear()
        with psycopg.connect(address, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'")
        await asyncio.gather(heard(signals.wake), heard(signals.post))

        await houses[0].submit(account_id)
        await heard(signals.wake)
        await listener.stop()


# ---------------------------------------------------------------- when they are in each other's way


async def test_verbs_that_met_in_a_deadlock_are_tried_again(address: str, account_id: str) -> None:
    house = House(f"{address}&options=-c%20deadlock_timeout%3D1s")  # it is we who look first, and give way
    second_id = (await house.accounts.create("second", credits_usd=1, max_concurrent=1)).id
    tries = []

    def lock(connection: Connection, locked_id: str) -> None:
        connection.execute(select(accounts.c.id).where(accounts.c.id == locked_id).with_for_update())

    def verb(connection: Connection) -> str:
        tries.append("verb")
        lock(connection, second_id)
        lock(connection, account_id)
        return "done"

    other = await psycopg.AsyncConnection.connect(address)
    async with other:
        await other.execute("SET deadlock_timeout = '1min'")
        await other.execute("SELECT id FROM accounts WHERE id = %s FOR UPDATE", [account_id])
        ours = [asyncio.create_task(house.database.write(verb)) for _ in range(2)]
        async with asyncio.timeout(LONG):
            while not tries:
                await asyncio.sleep(0.01)
            await other.execute("SELECT id FROM accounts WHERE id = %s FOR UPDATE", [second_id])
            await other.commit()
            assert await asyncio.gather(*ours) == ["done", "done"]
    assert len(tries) >= 3
    house.database.close()


async def test_a_server_that_freezes_in_the_middle_of_a_verb_holds_the_others_up_for_some_seconds_only(
    address: str, houses: tuple[House, House], account_id: str
) -> None:
    freezing = House(f"{address}&options=-c%20idle_in_transaction_session_timeout%3D300ms")

    def freeze(connection: Connection) -> None:
        connection.execute(accounts.update().values(max_concurrent=1))
        time.sleep(1.5)
        connection.execute(text("SELECT 1"))

    frozen = asyncio.create_task(freezing.database.write(freeze))
    await asyncio.sleep(0.1)
    task = await houses[0].submit(account_id)

    assert not frozen.done()
    with pytest.raises(Unavailable):
        await frozen
    assert task.state is State.PENDING
    freezing.database.close()


# ---------------------------------------------------------------- when a connection is lost


def end_all_connections(address: str) -> None:
    with psycopg.connect(address, autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


async def test_connections_that_were_lost_while_idle_are_made_again_and_nobody_notices(
    address: str, houses: tuple[House, House], account_id: str
) -> None:
    for _ in range(3):
        end_all_connections(address)
        task = await houses[0].submit(account_id)
        assert await houses[1].queue.get(account_id, task.id) == task


@pytest.mark.parametrize("way", ["write", "read"])
async def test_a_connection_lost_in_the_middle_is_told_without_a_word_about_the_house(
    houses: tuple[House, House], account_id: str, way: str
) -> None:
    def break_off(connection: Connection) -> None:
        connection.execute(text("SELECT :secret, pg_terminate_backend(pg_backend_pid())"), {"secret": "a secret"})

    with pytest.raises(Unavailable) as refused:
        await getattr(houses[0].database, way)(break_off)

    assert refused.value.retry_after > 0
    assert "Idempotency-Key" in refused.value.message
    assert "SELECT" not in refused.value.message
    assert "a secret" not in f"{refused.value} {refused.value.__cause__}"
    await houses[0].submit(account_id)  # at once


@pytest.mark.parametrize("is_done", [True, False], ids=["after it was done", "before it was done"])
async def test_a_commit_that_is_cut_off_can_be_asked_for_again_and_makes_one_task(
    houses: tuple[House, House], account_id: str, is_done: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialect = houses[0].database.engine.dialect
    commit = dialect.do_commit

    def cut_off(connection: Any) -> None:
        if is_done:
            commit(connection)
        connection.close()
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(dialect, "do_commit", cut_off)
    with pytest.raises(Unavailable):
        await houses[0].submit(account_id, repeatable=KEY)
    monkeypatch.undo()

    tasks = await houses[0].queue.open_tasks(account_id)
    assert len(tasks) == is_done
    again = await houses[1].submit(account_id, repeatable=KEY)
    assert await houses[1].queue.open_tasks(account_id) == [again]
    assert not tasks or tasks == [again]
