"""The outbox: what is written when a task ends, who may take it, and what is known of every attempt (G9)."""

from typing import Any

import pytest
from sqlalchemy import Engine, event, update
from sqlalchemy.exc import DBAPIError

from fluxserve.domain.errors import NotFound
from fluxserve.domain.task import Completed, Errored, State, Task, Webhook, WorkerLost
from fluxserve.tasks import Letter, outbox, verbs
from fluxserve.tasks.outbox import Attempt, DeliveryLog, origin_of, share_out
from fluxserve.tasks.schema import webhooks
from tests.tasks.conftest import Bench, picture

HOOK = Webhook("https://receiver.test:8443/hook?of=mine", "a secret")
LEASE = 30.0
OTHER = "http://another.test"


class Letters:
    """The outbox's verbs at the bench's clock, each in a transaction of its own."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def take(
        self, *, busy: dict[str, int] | None = None, most_of_one: int = 100, most: int = 1000, lease: float = LEASE
    ) -> list[Letter]:
        now = self._bench.now
        with self._bench.engine.begin() as connection:
            due_at = outbox.first_due(connection)
            shares = share_out(due_at, now, busy or {}, most_of_one=most_of_one, most=most)
            return outbox.take(connection, now, lease, shares)

    def record(
        self, letter: Letter, status: int | None = 200, *, next_in: float | None = None, error: str | None = None
    ) -> None:
        now = self._bench.now
        with self._bench.engine.begin() as connection:
            outbox.record(
                connection,
                letter,
                Attempt(now, 0.5, status, error),
                next_at=None if next_in is None else now + next_in,
                is_delivered=status == 200,
            )

    def log(self, task: Task, account_id: str | None = None) -> DeliveryLog:
        with self._bench.engine.begin() as connection:
            return outbox.delivery_log(connection, account_id, task.id)

    def resend(self, task: Task, account_id: str | None = None) -> DeliveryLog:
        with self._bench.engine.begin() as connection:
            return outbox.resend(connection, self._bench.now, account_id, task.id)


@pytest.fixture
def letters(bench: Bench) -> Letters:
    return Letters(bench)


def ended(bench: Bench, url: str = HOOK.url) -> Task:
    (task,) = bench.claim(bench.submit(webhook=Webhook(url, HOOK.secret)))
    after = bench.finish(task, Errored("drawing_failed", "it broke"))
    assert after is not None
    return after


# ---------------------------------------------------------------- what is written


def test_a_completed_task_is_told_of(bench: Bench, letters: Letters) -> None:
    (task,) = bench.claim(bench.submit(webhook=HOOK))
    assert letters.take() == []

    bench.finish(task, Completed((picture("one"),)))

    (letter,) = letters.take()
    assert (letter.task_id, letter.url, letter.secret) == (task.id, HOOK.url, HOOK.secret)
    assert (letter.origin, letter.attempt) == ("https://receiver.test:8443", 1)
    assert letter.id.startswith("msg_")


def test_so_is_one_that_failed(bench: Bench, letters: Letters) -> None:
    task = ended(bench)

    assert [letter.task_id for letter in letters.take()] == [task.id]


def test_so_is_one_that_was_cancelled_waiting(bench: Bench, letters: Letters) -> None:
    task = bench.submit(webhook=HOOK)

    bench.cancel(task)
    bench.cancel(task)

    assert [letter.task_id for letter in letters.take()] == [task.id]


def test_so_is_one_that_was_cancelled_while_it_was_drawn(bench: Bench, letters: Letters) -> None:
    (task,) = bench.claim(bench.submit(webhook=HOOK))
    bench.cancel(task)
    assert letters.take() == []

    bench.finish(task, Errored("cancelled", "by the caller"))

    assert [letter.task_id for letter in letters.take()] == [task.id]


def test_so_is_one_whose_deadline_passed(bench: Bench, letters: Letters) -> None:
    task = bench.submit(webhook=HOOK, deadline=1001.0)
    bench.now = 1002.0

    with bench.engine.begin() as connection:
        verbs.expire(connection, bench.now, 10)

    assert [letter.task_id for letter in letters.take()] == [task.id]


def test_so_is_one_whose_worker_was_lost_too_often(bench: Bench, letters: Letters) -> None:
    task = bench.submit(webhook=HOOK)

    for attempt in range(3):
        assert letters.take() == [], attempt
        (claimed,) = bench.claim(task)
        bench.finish(claimed, WorkerLost("it crashed"))

    assert [letter.task_id for letter in letters.take()] == [task.id]


def test_a_task_without_a_webhook_is_told_to_nobody(bench: Bench, letters: Letters) -> None:
    bench.finish(bench.claimed(), Completed((picture("one"),)))
    bench.cancel(bench.submit())

    assert letters.take() == []


def test_it_is_written_with_the_ending_or_not_at_all(bench: Bench, letters: Letters) -> None:
    (task,) = bench.claim(bench.submit(webhook=HOOK))

    with bench.engine.begin() as connection:
        verbs.finish(connection, bench.now, verbs.Held(task.id, task.attempt), Errored("code", "it broke"), 3)
        connection.rollback()

    assert bench.get(task).state is State.PROCESSING
    assert letters.take() == []


def test_an_ending_that_comes_late_is_told_once(bench: Bench, letters: Letters) -> None:
    (task,) = bench.claim(bench.submit(webhook=HOOK))
    bench.finish(task, Errored("drawing_failed", "it broke"))

    assert bench.finish(task, Completed((picture("one"),))) is None
    assert len(letters.take()) == 1


@pytest.mark.parametrize("url", ["http://[user]@host/", "http://[", "no address", "http:\\\\host", "//", "x" * 3000])
def test_a_task_ends_whatever_its_webhook_looks_like(bench: Bench, url: str) -> None:
    assert ended(bench, url).state is State.FAILED


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://a.test/x", "https://a.test"),
        ("https://a.test", "https://a.test"),
        ("HTTPS://A.test/X", "https://a.test"),
        ("http://a.test:81?x/y", "http://a.test:81"),
        ("http://a.test#x", "http://a.test"),
        ("http://[::1]:80/x", "http://[::1]:80"),
        ("nothing", "nothing"),
    ],
)
def test_an_origin_is_scheme_host_and_port(url: str, origin: str) -> None:
    assert origin_of(url) == origin


# ---------------------------------------------------------------- who may take it


def test_what_is_taken_is_its_takers_until_the_lease_ends(bench: Bench, letters: Letters) -> None:
    ended(bench)
    (letter,) = letters.take()

    bench.now += LEASE - 1
    assert letters.take() == []
    bench.now += 1
    assert letters.take() == [letter]


def test_what_waits_longest_is_taken_first_and_no_origin_has_more_than_its_share(
    bench: Bench, letters: Letters
) -> None:
    tasks = []
    for _ in range(5):
        tasks.append(ended(bench))
        bench.now += 1
    other = ended(bench, OTHER)

    taken = letters.take(busy={"https://receiver.test:8443": 1}, most_of_one=3)
    assert {letter.task_id for letter in taken} == {tasks[0].id, tasks[1].id, other.id}
    assert [letter.task_id for letter in letters.take(busy={"https://receiver.test:8443": 3}, most_of_one=3)] == []
    assert {letter.task_id for letter in letters.take(most_of_one=2)} == {tasks[2].id, tasks[3].id}


def test_a_transaction_takes_only_so_many(bench: Bench, letters: Letters, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "MOST_TOGETHER", 2)
    for url in (HOOK.url, HOOK.url, HOOK.url, OTHER, OTHER):
        ended(bench, url)

    assert [len(letters.take()) for _ in range(4)] == [2, 2, 1, 0]


def test_one_origin_alone_has_all_its_places() -> None:
    assert share_out({"a": 0.0}, 1.0, {}, most_of_one=8, most=512) == {"a": 8}
    assert share_out({"a": 0.0}, 1.0, {"a": 7}, most_of_one=8, most=512) == {"a": 1}
    assert share_out({"a": 0.0}, 1.0, {"a": 8}, most_of_one=8, most=512) == {}


def test_a_hundred_that_hang_leave_places_for_the_others() -> None:
    tarpits = {f"tarpit {number}": 0.0 for number in range(100)}
    busy: dict[str, int] = {}
    while shares := share_out(tarpits, 1.0, busy, most_of_one=8, most=512):
        busy = {origin: busy.get(origin, 0) + shares.get(origin, 0) for origin in tarpits}

    assert sum(busy.values()) < 512 - 64
    assert share_out({**tarpits, "good": 0.5}, 1.0, busy, most_of_one=8, most=512) == {"good": 2}


def test_where_few_are_under_way_is_seen_to_first() -> None:
    due_at = {"busy": 0.0, "idle": 0.5, "longer idle": 0.2, "later": 2.0}

    assert list(share_out(due_at, 1.0, {"busy": 1}, most_of_one=4, most=16)) == ["longer idle", "idle", "busy"]


def test_nothing_is_taken_where_no_place_is_free() -> None:
    assert share_out({"a": 0.0}, 1.0, {"b": 4, "c": 4}, most_of_one=4, most=8) == {}


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)  # the words of its plans
def test_what_waits_is_not_looked_through(bench: Bench, engine: Engine, letters: Letters) -> None:
    for url in (HOOK.url, OTHER):
        ended(bench, url)
    statements: list[tuple[str, Any]] = []

    @event.listens_for(engine, "before_cursor_execute")
    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        statements.append((statement, parameters))

    assert len(letters.take()) == 2

    selects = [each for each in statements if each[0].startswith(("SELECT", "WITH"))]
    assert len(selects) == 3
    with engine.begin() as connection:
        for statement, parameters in selects:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            steps = [row[3] for row in plan if "webhooks" in row[3]]
            assert steps
            assert [step for step in steps if "USING" not in step or "webhooks_due" not in step] == []


# ---------------------------------------------------------------- how it went


def test_every_attempt_is_written_down(bench: Bench, letters: Letters) -> None:
    task = ended(bench)
    assert letters.log(task).attempts == ()
    (first,) = letters.take()
    letters.record(first, None, next_in=5, error="no HTTP answer")
    assert letters.take() == []
    bench.now += 5
    (second,) = letters.take()
    assert (second.id, second.attempt) == (first.id, 2)
    letters.record(second)

    log = letters.log(task)
    assert (log.id, log.url, log.created_at) == (first.id, HOOK.url, 1000.0)
    assert (log.next_at, log.delivered_at) == (None, 1005.0)
    assert log.attempts == (Attempt(1000.0, 0.5, None, "no HTTP answer"), Attempt(1005.0, 0.5, 200, None))
    bench.now += 1e6
    assert letters.take() == []


def test_a_sender_that_comes_late_changes_nothing(bench: Bench, letters: Letters) -> None:
    task = ended(bench)
    (late,) = letters.take()
    bench.now += LEASE
    (letter,) = letters.take()
    letters.record(letter)
    bench.now += 1

    letters.record(late, 500, next_in=5)

    log = letters.log(task)
    assert (log.next_at, log.delivered_at) == (None, bench.now - 1)
    assert [each.status for each in log.attempts] == [200, 500]


def test_resending_sends_it_once_more(bench: Bench, letters: Letters) -> None:
    task = ended(bench)
    (letter,) = letters.take()
    letters.record(letter)
    bench.now += 1

    log = letters.resend(task)

    assert (log.next_at, log.delivered_at) == (bench.now, None)
    (again,) = letters.take()
    assert (again.id, again.attempt) == (letter.id, 2)


def test_what_was_given_up_can_be_sent_again(bench: Bench, letters: Letters) -> None:
    task = ended(bench)
    letters.record(letters.take()[0], 500)
    assert letters.log(task).next_at is None

    letters.resend(task)

    assert [letter.task_id for letter in letters.take()] == [task.id]


def test_the_log_is_its_accounts_alone(bench: Bench, letters: Letters) -> None:
    task = ended(bench)
    stranger = bench.another_account()

    assert letters.log(task, bench.account_id) == letters.log(task)
    for question in (letters.log, letters.resend):
        with pytest.raises(NotFound, match=task.id):
            question(task, stranger)
    assert letters.log(task).next_at == bench.now


def test_there_is_no_log_before_the_end_nor_without_a_webhook(bench: Bench, letters: Letters) -> None:
    silent = bench.claimed()
    bench.finish(silent, Completed((picture("one"),)))

    for task in (bench.submit(webhook=HOOK), silent):
        with pytest.raises(NotFound):
            letters.log(task)
        with pytest.raises(NotFound):
            letters.resend(task)


def test_a_secret_is_in_no_error_of_the_database(bench: Bench) -> None:
    ended(bench)
    with bench.engine.connect() as connection, pytest.raises(DBAPIError) as caught:
        connection.execute(update(webhooks).values(secret="canary", task_id="none"))

    assert "canary" not in str(caught.value)
