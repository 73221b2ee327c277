"""A completion's points are held once, and its hold ends once, whatever happens."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import delete, insert, text, update
from sqlalchemy.exc import IntegrityError

from fluxserve.domain.completion import Completion, NewCompletion, Unused, Usage, Used
from fluxserve.domain.errors import InFlight, KeyReused, NotEnoughCredits, NotFound
from fluxserve.domain.task import Repeatable, State
from fluxserve.tasks import Completions, Database
from fluxserve.tasks import completions as verbs
from fluxserve.tasks.schema import accounts, answers, completions, ledger
from tests.tasks.conftest import CREDIT, LEASE, Bench

ANSWER = b'{"object":"chat.completion"}'
USED = Used(Usage(19, 9), 700, ANSWER)
FAILED = Unused("upstreams_failed", "nobody answered")
KEY = Repeatable("a key", bytes(32))


def test_what_it_may_cost_is_held_and_what_it_did_cost_is_settled(bench: Bench) -> None:
    completion = bench.hold(price=1000)
    assert bench.points() == (CREDIT - 1000, 1000)

    assert bench.end(completion, USED)

    assert bench.points() == (CREDIT - 700, 0)
    after = bench.completion(completion)
    assert (after.state, after.price, after.usage, after.answer) == (State.COMPLETED, 700, Usage(19, 9), ANSWER)


def test_what_came_to_nothing_costs_nothing(bench: Bench) -> None:
    completion = bench.hold(price=1000)

    assert bench.end(completion, FAILED)

    assert bench.points() == (CREDIT, 0)
    after = bench.completion(completion)
    assert (after.state, after.price, after.error_code) == (State.FAILED, None, "upstreams_failed")


def test_nothing_costs_more_than_was_held(bench: Bench) -> None:
    completion = bench.hold(price=1000)

    bench.end(completion, Used(Usage(10**9, 10**9), 10**12, None))

    assert bench.points() == (CREDIT - 1000, 0)
    assert bench.completion(completion).price == 1000


@pytest.mark.parametrize("first", [USED, FAILED])
@pytest.mark.parametrize("second", [USED, FAILED])
def test_it_ends_once(bench: Bench, first: Any, second: Any) -> None:
    completion = bench.hold()
    bench.end(completion, first)
    before = bench.points(), bench.completion(completion)

    assert not bench.end(completion, second)
    assert (bench.points(), bench.completion(completion)) == before


def test_an_account_that_cant_pay_what_it_may_cost_is_refused_and_nothing_is_held(bench: Bench) -> None:
    with pytest.raises(NotEnoughCredits):
        bench.hold(price=CREDIT + 1)
    assert bench.points() == (CREDIT, 0)
    assert bench.hold(price=CREDIT).held == CREDIT


def test_another_accounts_completion_is_not_there(bench: Bench) -> None:
    completion = bench.hold()
    another = bench.another_account()

    with pytest.raises(NotFound), bench.engine.begin() as connection:
        verbs._get(connection, bench.now, another, completion.id)


def test_a_repeat_is_told_of_the_first_and_holds_nothing(bench: Bench) -> None:
    first = bench.hold(repeatable=KEY)
    with pytest.raises(InFlight):
        bench.hold(repeatable=KEY)
    bench.end(first, USED)

    again = bench.hold(repeatable=KEY)

    assert (again.id, again.answer) == (first.id, ANSWER)
    assert bench.points() == (CREDIT - 700, 0)
    with pytest.raises(KeyReused):
        bench.hold(repeatable=Repeatable("a key", bytes(31) + b"1"))
    assert bench.hold(repeatable=KEY, account_id=bench.another_account()).id != first.id


def test_a_request_whose_completion_failed_may_come_for_the_first_time_once_more(bench: Bench) -> None:
    first = bench.hold(repeatable=KEY)
    bench.end(first, FAILED)

    assert bench.hold(repeatable=KEY).id != first.id


def test_what_a_dead_server_was_relaying_is_released_when_its_lease_has_run_out(bench: Bench) -> None:
    left, ended = bench.hold(price=1000), bench.hold(price=500)
    bench.end(ended, USED)
    bench.now += LEASE
    assert bench.rescue_completions() == []

    bench.now += 0.001
    assert bench.rescue_completions() == [left.id]

    assert bench.points() == (CREDIT - 500, 0)
    assert bench.completion(left).error_code == "abandoned"
    assert bench.rescue_completions(everything=True) == []


def test_what_is_renewed_is_not_rescued_and_at_a_start_all_are(bench: Bench) -> None:
    completion = bench.hold()
    bench.now += LEASE - 1
    with bench.engine.begin() as connection:
        verbs._renew(connection, bench.now + LEASE, [completion.id])
    bench.now += LEASE
    assert bench.rescue_completions() == []

    assert bench.rescue_completions(everything=True) == [completion.id]


def test_a_lease_that_was_given_before_the_clock_was_set_back_holds_nothing_for_ever(bench: Bench) -> None:
    completion = bench.hold()
    bench.now -= 86_400

    assert bench.rescue_completions() == [completion.id]


def test_an_answer_is_kept_for_a_day(bench: Bench) -> None:
    completion = bench.hold()
    bench.end(completion, USED)
    bench.now += 24 * 3600 - 1
    assert bench.completion(completion).answer == ANSWER

    bench.now += 1

    assert bench.completion(completion).answer is None
    assert bench.completion(completion).price == 700


CHANGES = {
    "price": "never changes",
    "state": "never changes",
    "held": "never changes",
}


@pytest.mark.parametrize("column", CHANGES)
def test_the_database_refuses_to_change_one_that_has_ended(bench: Bench, column: str) -> None:
    bench.end(bench.hold(), USED)
    value = "processing" if column == "state" else 1

    with pytest.raises(IntegrityError, match=CHANGES[column]), bench.engine.begin() as connection:
        connection.execute(update(completions).values({column: value}))


def test_the_database_refuses_to_change_what_is_held(bench: Bench) -> None:
    bench.hold()

    with pytest.raises(IntegrityError, match="never changes"), bench.engine.begin() as connection:
        connection.execute(update(completions).values(held=1))


def test_the_database_refuses_a_price_above_what_was_held(bench: Bench) -> None:
    bench.hold(price=1000)

    ended = {"state": "completed", "lease_until": None, "ended_at": 1.0}
    for price in (1001, -1, None):
        with pytest.raises(IntegrityError), bench.engine.begin() as connection:
            connection.execute(update(completions).values(**ended, price=price))


@pytest.mark.parametrize("phase", ["hold", "settle", "release"])
def test_the_database_refuses_a_second_ending_of_a_hold(bench: Bench, phase: str) -> None:
    completion = bench.hold()
    bench.end(completion, USED)

    with pytest.raises(IntegrityError), bench.engine.begin() as connection:
        connection.execute(insert(ledger).values(_entry(bench, phase, completion_id=completion.id)))


def test_the_database_refuses_a_row_of_the_ledger_that_is_of_nothing_or_of_two_things(bench: Bench) -> None:
    completion, task = bench.hold(), bench.submit()
    wrong = (
        _entry(bench, "settle"),
        _entry(bench, "settle", completion_id=completion.id, task_id=task.id),
        _entry(bench, "deposit", completion_id=completion.id),
    )
    for entry in wrong:
        with pytest.raises(IntegrityError), bench.engine.begin() as connection:
            connection.execute(insert(ledger).values(entry))


def _entry(bench: Bench, phase: str, **paid: str) -> dict[str, Any]:
    return {"account_id": bench.account_id, "phase": phase, "balance_change": 0, "frozen_change": 0, "at": 1.0, **paid}


def test_the_ledger_stays_append_only_after_the_migration(bench: Bench) -> None:
    bench.hold()

    for change in (update(ledger).values(balance_change=0), delete(ledger)):
        with pytest.raises(IntegrityError, match="append-only"), bench.engine.begin() as connection:
            connection.execute(change)


@pytest.mark.anyio
async def test_a_hundred_twins_make_one_completion(bench: Bench) -> None:
    database = Database(bench.engine)
    relayed = Completions(database)

    async def ask() -> Completion | None:
        try:
            return await relayed.hold(NewCompletion(bench.account_id, "a-text-model", 1000, repeatable=KEY))
        except InFlight:
            return None

    made = [each for each in await asyncio.gather(*(ask() for _ in range(100))) if each]

    assert len(made) == 1
    assert bench.points() == (CREDIT - 1000, 1000)
    await relayed.finish(made[0].id, USED)
    assert bench.points() == (CREDIT - 700, 0)
    database.close()


@pytest.mark.anyio
async def test_old_answers_are_forgotten_and_what_was_paid_is_not(bench: Bench) -> None:
    database = Database(bench.engine)
    now = 1000.0
    relayed = Completions(database, clock=lambda _: now)
    completion = await relayed.hold(NewCompletion(bench.account_id, "a-text-model", 1000))
    await relayed.finish(completion.id, USED)
    await relayed.forget_old_answers()
    assert (await relayed.get(bench.account_id, completion.id)).answer == ANSWER

    now += 24 * 3600
    await relayed.forget_old_answers()

    with bench.engine.begin() as connection:
        assert connection.execute(text(f"SELECT count(*) FROM {answers.name}")).scalar_one() == 0  # noqa: S608
        assert connection.execute(text(f"SELECT count(*) FROM {accounts.name}")).scalar_one() == 1  # noqa: S608
    assert (await relayed.get(bench.account_id, completion.id)).price == 700
    database.close()
