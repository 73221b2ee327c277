"""The real queue and the model of it, played side by side by Hypothesis, and looked at after each step.

    python -m tests.tasks.machine --steps 100000

A step is one call of a verb, in a transaction of its own as `Database` would run it. Its answer or refusal must be the
model's. Then the database is looked at as it was committed: its audit finds nothing, the laws below hold of its rows by
themselves, and the rows are those that the model foretells.

Everything is small, so that edges are met often: three accounts with a few points and room for one to four tasks,
leases and deadlines of seconds to a day, a clock that jumps by as much, forwards and backwards.
"""

import argparse
import random
import sqlite3
import tempfile
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import psycopg
from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Connection, Engine

from fluxserve.domain.errors import FluxserveError
from fluxserve.domain.generation import Generation, ImageToImage, TextToImage
from fluxserve.domain.task import (
    Completed,
    Ending,
    Errored,
    GivenBack,
    Output,
    Repeatable,
    State,
    Submission,
    Task,
    Webhook,
    WorkerLost,
)
from fluxserve.tasks import (
    Account,
    Attempt,
    Held,
    Letter,
    Sought,
    accounts,
    lists,
    migrate,
    open_postgresql,
    open_sqlite,
    outbox,
    pictures,
    repeats,
    verbs,
)
from fluxserve.tasks.audit import CHECKS, audit
from tests.postgresql import Postgres
from tests.tasks.model import DAY, Model

T = TypeVar("T")

START = 1e9
BEGINNING = (("a", 6, 1), ("b", 10, 2), ("c", 3, 2))  # accounts: their names, points and limits
LEASE = 30.0
LOSSES = 2
MOST_STAGED = 2
STEPS_OF_ONE = 60  # in one history, after which the database is emptied
HISTORIES_OF_ONE_SEED = 500  # Hypothesis remembers all that it made from one seed, and grows slow

Rows = dict[str, list[tuple[Any, ...]]]

LOOKS = {
    "accounts": "SELECT id, balance, frozen, max_concurrent, served FROM accounts ORDER BY name",
    "tasks": """SELECT id, account_id, state, attempt, losses, lease_until, step, steps, started_at, ended_at,
        cancel_wished_at, cancel_code, error_code, version, turn, price, pool, webhook_url
        FROM tasks ORDER BY number""",
    "ledger": "SELECT account_id, task_id, phase, balance_change, frozen_change FROM ledger ORDER BY id",
    "webhooks": "SELECT task_id, attempts, next_at, delivered_at FROM webhooks",
    "deliveries": "SELECT task_id, count(*) FROM deliveries d JOIN webhooks w ON w.id = webhook_id GROUP BY task_id",
    "outputs": "SELECT id, task_id, position, expires_at, swept_at FROM outputs",
    "inputs": "SELECT key, task_id FROM inputs",
    "previews": "SELECT task_id, data FROM previews",
    "idempotency_keys": "SELECT account_id, key, body_hash, task_id, first_state, created_at FROM idempotency_keys",
    "api_keys": "SELECT id, account_id, revoked_at FROM api_keys",
}
# Their order says nothing.
UNORDERED = ("webhooks", "deliveries", "outputs", "inputs", "previews", "idempotency_keys", "api_keys")
AUDIT = " UNION ALL ".join(
    f"SELECT {number} FROM ({query}) AS found_{number}"  # noqa: S608
    for number, query in enumerate(CHECKS.values())
)


# ---------------------------------------------------------------- the databases


class Ground(ABC):
    """A migrated database with the accounts that a history begins with, and a way to look at what is committed."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.accounts: list[Account] = []

    @abstractmethod
    def begin_anew(self) -> None: ...

    @abstractmethod
    def look(self, query: str) -> list[tuple[Any, ...]]: ...

    @abstractmethod
    def close(self) -> None: ...

    def _create_accounts(self) -> None:
        with self.engine.begin() as connection:
            self.accounts = [accounts._create(connection, START, *each) for each in BEGINNING]


class SqliteGround(Ground):
    """A file whose commits do not wait for the disk: here nobody pulls the plug."""

    def __init__(self, folder: Path) -> None:
        super().__init__(open_sqlite(folder / "queue.sqlite", synchronous="OFF"))
        migrate(self.engine)
        self._create_accounts()
        self._looking = sqlite3.connect(folder / "queue.sqlite", isolation_level=None)
        self._looking.execute("PRAGMA synchronous=OFF")
        self._beginning = sqlite3.connect(":memory:")
        self._looking.backup(self._beginning)

    def begin_anew(self) -> None:
        self._beginning.backup(self._looking)

    def look(self, query: str) -> list[tuple[Any, ...]]:
        return self._looking.execute(query).fetchall()

    def close(self) -> None:
        self._looking.close()
        self._beginning.close()
        self.engine.dispose()


class PostgresqlGround(Ground):
    def __init__(self, server: Postgres) -> None:
        self._server = server
        address = server.emptied()
        super().__init__(open_postgresql(address))
        self._looking = psycopg.connect(address, autocommit=True)

    def begin_anew(self) -> None:
        self._server.emptied()
        self._create_accounts()

    def look(self, query: str) -> list[tuple[Any, ...]]:
        return self._looking.execute(query.encode()).fetchall()

    def close(self) -> None:
        self._looking.close()
        self.engine.dispose()


@contextmanager
def sqlite_ground() -> Iterator[Ground]:
    with tempfile.TemporaryDirectory() as folder:
        ground = SqliteGround(Path(folder))
        try:
            yield ground
        finally:
            ground.close()


# ---------------------------------------------------------------- the laws


def laws(rows: Rows, before: Rows) -> None:
    """What must hold of the rows, whatever the model says; `before` is how they were a step ago."""
    of_account: dict[str, Counter[str]] = {account[0]: Counter() for account in rows["accounts"]}
    price_of = {task[0]: task[15] for task in rows["tasks"]}
    for account_id, task_id, phase, balance, frozen in rows["ledger"]:
        match phase:
            case "deposit":
                of_account[account_id]["deposited"] += balance
            case "settle":
                of_account[account_id]["consumed"] += price_of[task_id]
        assert (phase == "deposit") == (task_id is None)
        assert phase == "deposit" or abs(frozen) == price_of[task_id], f"a {phase} is not of the task's price"
    for task in rows["tasks"]:
        of_account[task[1]][task[2]] += 1
        if task[2] in ("staged", "pending", "processing"):
            of_account[task[1]]["open prices"] += task[15]
    for account_id, balance, frozen, limit, _ in rows["accounts"]:
        sums = of_account[account_id]
        assert balance + frozen + sums["consumed"] == sums["deposited"], "points were made or lost"
        assert frozen == sums["open prices"], "what is frozen is not what open tasks cost"
        assert balance >= 0, "a balance is below zero"
        has_room = sums["pending"] + sums["processing"] < limit
        assert not (sums["staged"] and has_room), "a task is staged while its account has room"
    _limits_hold(rows, before)
    _holds_end_once(rows)
    _endings_stay_and_are_posted(rows, before)


def _limits_hold(rows: Rows, before: Rows) -> None:
    """A limit may be lowered below what waits and runs; then neither grows until there is room again."""
    for states, what in ((("processing",), "runs"), (("pending", "processing"), "waits and runs")):
        now, then = (Counter(task[1] for task in each["tasks"] if task[2] in states) for each in (rows, before))
        for account_id, _, _, limit, _ in rows["accounts"]:
            assert now[account_id] <= max(limit, then[account_id]), f"more {what} than its account may have"


def _holds_end_once(rows: Rows) -> None:
    phases = Counter((task_id, phase) for _, task_id, phase, _, _ in rows["ledger"])
    for task in rows["tasks"]:
        task_id, state = task[0], task[2]
        expected = {"completed": (1, 1, 0), "failed": (1, 0, 1)}.get(state, (1, 0, 0))
        found = tuple(phases[task_id, phase] for phase in ("hold", "settle", "release"))
        assert found == expected, f"a task that is {state} was held, settled, released {found} times"


def _endings_stay_and_are_posted(rows: Rows, before: Rows) -> None:
    then = {task[0]: task for task in before["tasks"] if task[2] in ("completed", "failed")}
    ended = {task[0]: task for task in rows["tasks"] if task[2] in ("completed", "failed")}
    assert {task_id: ended.get(task_id) for task_id in then} == then, "a finished task has changed"
    posted = Counter(webhook[0] for webhook in rows["webhooks"])
    assert posted == Counter(task_id for task_id, task in ended.items() if task[17] is not None), (
        "the outbox has not one row for each finished task with a webhook"
    )


# ---------------------------------------------------------------- the machine

PICTURES = (
    Generation("flux1-schnell", TextToImage("a little cat"), 256, 256, 4, None, 1),
    Generation("flux1-dev", TextToImage("a big cat"), 512, 512, 20, 3.5, 1),
)
ONE, OTHER = Webhook("http://one.test/hook", ""), Webhook("http://other.test/hook", "secret")
WEBHOOKS = (None, ONE, OTHER, ONE)
KEPT = 60.0  # seconds that finished pictures are
DEADLINES = (10.0, LEASE, 3600.0, DAY, 30 * DAY)
JUMPS = (LEASE, 3600.0, DAY, -LEASE, -3600.0, -DAY)

_which = st.integers(0, 15)  # of the latest that there are
_account = st.integers(0, 2)
_points = st.integers(1, 4)
_often = st.integers(0, 3).map(bool)


class Mode:
    """Whose word an attempt's is."""

    NOW, EVER, NEVER = "the attempt that holds it", "any that has", "one that will be"


_mode = st.sampled_from([Mode.NOW, Mode.NOW, Mode.NOW, Mode.EVER, Mode.EVER, Mode.NEVER])


@dataclass
class Tally:
    """`steps` of each history that was played."""

    steps: list[int] = field(default_factory=list)

    @property
    def total(self) -> int:
        return sum(self.steps)


class QueueMachine(RuleBasedStateMachine):
    def __init__(self, ground: Ground, tally: Tally, loosened: Sequence[str] = ()) -> None:
        """`loosened` are statements that take away some of the database's own guards."""
        super().__init__()
        self.ground = ground
        ground.begin_anew()
        for statement in loosened:
            ground.look(statement)
        self.tally = tally
        tally.steps.append(0)
        self.model = Model(now=START, lease_seconds=LEASE, losses_allowed=LOSSES, most_staged=MOST_STAGED)
        self.account_ids = [account.id for account in ground.accounts]
        self.attempts: list[Held] = []  # every one that there ever was
        self.letters: list[Letter] = []  # as they were taken
        self.names = 0
        for account in ground.accounts:
            self.model.create(account)
        self.rows = self._rows()

    @property
    def now(self) -> float:
        return self.model.now

    @initialize(tasks=st.integers(3, 8), claimed=st.integers(1, 3))
    def begin(self, tasks: int, claimed: int) -> None:
        """With something to do."""
        self.submit_again(0, "a", b"x", 1)
        for number in range(tasks):
            self.submit(number % 3, 1, 5 * number % 16, DEADLINES[number % 3], PICTURES[number % 2])
        for number in range(claimed):
            self.claim(number, several=False)

    # ------------------------------------------------------------ what callers do

    @rule(
        account=_account,
        price=_points,
        more=st.integers(0, 15),
        deadline=st.sampled_from(DEADLINES),
        picture=st.sampled_from(PICTURES),
    )
    def submit(self, account: int, price: int, more: int, deadline: float, picture: Generation) -> None:
        """`more`: its webhook, and whether it is private or drawn over a picture."""
        if more >= 12:
            picture = replace(picture, kind=ImageToImage("a cat", self._new_name("input"), 0.5))
        asked = Submission(
            self.account_ids[account],
            {"number": self.names},
            picture,
            is_private=more % 4 == 3,
            webhook=WEBHOOKS[more // 4],
        )
        self._submit(asked, price, deadline)

    @rule(account=_account, key=st.sampled_from("aaab"), body=st.sampled_from((b"x", b"x", b"x", b"y")), price=_points)
    def submit_again(self, account: int, key: str, body: bytes, price: int) -> None:
        """What may have come before: the same key with the same body, or with another, or from another account."""
        repeatable = Repeatable(key, body * 32)
        account_id = self.account_ids[account]
        self._submit(Submission(account_id, {}, PICTURES[0], webhook=ONE, repeatable=repeatable), price, DAY)

    def _submit(self, asked: Submission, price: int, deadline: float) -> None:
        task_id, until = self._new_name("task"), self.now + deadline
        self._both(
            lambda connection: verbs.submit(
                connection,
                self.now,
                asked,
                task_id=task_id,
                price=price,
                deadline=until,
                most_staged=MOST_STAGED,
            ),
            lambda: self.model.submit(asked, task_id, price, until),
        )

    @precondition(lambda self: self.model.tasks)
    @rule(which=_which, is_open=_often, is_own=_often)
    def cancel(self, which: int, is_open: bool, is_own: bool) -> None:
        task = self._task(which, *(State.STAGED, State.PENDING, State.PROCESSING) if is_open else State)
        account_id = task.account_id if is_own else self.account_ids[which % 3]
        self._both(
            lambda connection: verbs.cancel(connection, self.now, account_id, task.id),
            lambda: self.model.cancel(account_id, task.id),
        )

    @precondition(lambda self: self.model.tasks)
    @rule(account=_account, model=st.sampled_from(("flux1-schnell", "flux1-dev", None)))
    def cancel_all(self, account: int, model: str | None) -> None:
        account_id = self.account_ids[account]
        self._both(
            lambda connection: verbs.cancel_all(connection, self.now, account_id, Sought(model)),
            lambda: self.model.cancel_all(account_id, model),
        )

    @precondition(lambda self: self.model.tasks)
    @rule(account=_account, model=st.sampled_from(("flux1-schnell", None)), most=st.integers(1, 2), which=_which)
    def read(self, account: int, model: str | None, most: int, which: int) -> None:
        """Everything that only reads."""
        account_id = self.account_ids[account]
        self._both(
            lambda connection: lists.open_tasks(connection, account_id, Sought(model)),
            lambda: self.model.open_tasks(account_id, model),
        )
        page = self._write(lambda connection: lists.history(connection, account_id, Sought(), 2, most))
        everything = self.model.history(account_id)
        assert page.total == len(everything)
        assert [_told(task) for task in page.tasks] == everything[most : 2 * most]
        waiting = self._write(lambda connection: verbs.waiting(connection, most))
        assert {(each.task_id, each.pool, each.work, each.turn) for each in waiting} == self.model.waiting(most)
        assert set(self._write(verbs.wished_cancelled)) == self.model.wished_cancelled()
        assert self._write(pictures.kept_keys) == self.model.kept_keys()
        if self.model.outputs:
            picture_id = self._latest(list(self.model.outputs), which)
            self._both(
                lambda connection: pictures.stored(connection, self.now, picture_id),
                lambda: self.model.stored(picture_id),
            )

    # ------------------------------------------------------------ what servers do

    @precondition(lambda self: self.model.in_state(State.PENDING))
    @rule(which=_which, several=st.booleans())
    def claim(self, which: int, several: bool) -> None:
        ids = [kept.told.id for kept in self.model.in_state(State.PENDING)]
        chosen = ids[which % len(ids) :][: 3 if several else 1]
        self._claim(chosen, early=set(chosen[1:]))

    @rule(which=_which)
    def claim_anything(self, which: int) -> None:
        """Those that came last, in whatever state they are, and one that there never was."""
        self._claim(["task-0", *self.model.tasks][-1 - which % 3 :])

    def _claim(self, ids: list[str], early: Collection[str] = ()) -> None:
        for task in self._both(
            lambda connection: verbs.claim(connection, self.now, LEASE, ids, early),
            lambda: self.model.claim(ids, early),
        ):
            self.attempts.append(Held(task.id, task.attempt))

    @precondition(lambda self: self.attempts)
    @rule(which=_which, mode=_mode, step=st.sampled_from((-1, -1, 0, 1, 2, 4)))
    def progress(self, which: int, mode: str, step: int) -> None:
        """A step is done, of a number that is told from the first on; or time has passed and nothing else (-1)."""
        held = self._held(which, mode)
        if step < 0:
            several = {held, self._held(which + 1, mode)}
            self._both(
                lambda connection: verbs.renew(connection, self.now, LEASE, several), lambda: self.model.renew(several)
            )
            return
        steps, preview = 4 if step else None, b"picture" * (step // 2)
        self._both(
            lambda connection: verbs.progress(connection, self.now, LEASE, held, step, steps, preview),
            lambda: self.model.progress(held, step, steps, preview),
        )

    @precondition(lambda self: self.model.in_state(State.PROCESSING))
    @rule(which=_which, mode=_mode, images=st.integers(1, 2))
    def complete(self, which: int, mode: str, images: int) -> None:
        names = [self._new_name("output") for _ in range(images)]
        outputs = (Output(name, f"{name}.png", "image/png", 3, 8, 8, 1, self.now + KEPT) for name in names)
        self._finish(which, mode, Completed(tuple(outputs)))

    @precondition(lambda self: self.model.in_state(State.PROCESSING))
    @rule(which=_which, mode=_mode, error=st.sampled_from(("drawing_failed", "cancelled")))
    def fail(self, which: int, mode: str, error: str) -> None:
        """By itself, or as it was told to stop."""
        self._finish(which, mode, Errored(error, "it stopped"))

    @precondition(lambda self: self.attempts)
    @rule(which=_which, mode=_mode)
    def lose(self, which: int, mode: str) -> None:
        self._finish(which, mode, WorkerLost("killed"))

    @precondition(lambda self: self.attempts)
    @rule(which=_which, mode=_mode)
    def give_back(self, which: int, mode: str) -> None:
        self._finish(which, mode, GivenBack())

    def _finish(self, which: int, mode: str, ending: Ending) -> None:
        held = self._held(which, mode)
        self._both(
            lambda connection: verbs.finish(connection, self.now, held, ending, LOSSES),
            lambda: self.model.finish(held, ending),
        )

    @precondition(lambda self: self.model.in_state(State.STAGED, State.PENDING, State.PROCESSING))
    @rule()
    def expire(self) -> None:
        ended = self._write(lambda connection: verbs.expire(connection, self.now, 500))
        assert [_told(task) for task in ended] == self.model.expire([task.id for task in ended])

    @precondition(lambda self: self.model.in_state(State.PROCESSING))
    @rule(everything=st.sampled_from((False, False, True)))
    def rescue(self, everything: bool) -> None:
        rescued = self._write(lambda connection: verbs.rescue(connection, self.now, LOSSES, everything=everything))
        order = [task.id for task in rescued]
        assert [_told(task) for task in rescued] == self.model.rescue(order, everything=everything)

    @precondition(lambda self: self.model.expired_outputs() or self.model.spent_inputs() or self.model.repeats)
    @rule(most=st.integers(1, 3))
    def tidy(self, most: int) -> None:
        """Pictures whose time is over, inputs that have served, idempotency keys of yesterday."""
        expired = self._write(lambda connection: pictures.expired_outputs(connection, self.now, most))
        swept = {output.id for output in expired}
        assert swept <= self.model.expired_outputs()
        assert len(expired) == len(swept) == min(most, len(self.model.expired_outputs()))
        self._both(
            lambda connection: pictures.mark_swept(connection, self.now, swept), lambda: self.model.mark_swept(swept)
        )
        spent = self._write(lambda connection: pictures.spent_inputs(connection, most))
        assert set(spent) <= self.model.spent_inputs()
        assert len(spent) == min(most, len(self.model.spent_inputs()))
        self._write(lambda connection: pictures.forget_inputs(connection, spent))
        for key in spent:
            del self.model.inputs[key]
        self._both(lambda connection: repeats.forget_old(connection, self.now), self.model.forget_old_repeats)

    @rule(seconds=st.sampled_from(JUMPS))
    def the_clock_jumps(self, seconds: float) -> None:
        self.model.now += seconds

    @precondition(lambda self: self.model.moments())
    @rule(which=_which, off=st.sampled_from((0.0, 0.0, 1.0, -1.0)))
    def the_clock_comes_to_a_moment(self, which: int, off: float) -> None:
        """At which something ends or is due, or a second after it, or before."""
        moments = self.model.moments()
        self.model.now = moments[which % len(moments)] + off

    # ------------------------------------------------------------ what operators do

    @rule(account=_account, change=st.integers(-8, 6))
    def credit(self, account: int, change: int) -> None:
        account_id = self.account_ids[account]
        self._both(
            lambda connection: accounts._credit(connection, self.now, account_id, change),
            lambda: self.model.credit(account_id, change),
        )

    @rule(account=_account, limit=st.sampled_from((1, 1, 2, 3)))
    def limit(self, account: int, limit: int) -> None:
        account_id = self.account_ids[account]
        self._both(
            lambda connection: accounts._limit(connection, account_id, limit),
            lambda: self.model.limit(account_id, limit),
        )

    @rule(act=st.sampled_from(("make", "revoke", "use", "use")), account=_account, which=_which)
    def key(self, act: str, account: int, which: int) -> None:
        account_id = self.account_ids[account]
        key = self._new_name("key") if act == "make" else self._latest([*self.model.keys, "nobody's"], which)
        match act:
            case "make":
                self._both(
                    lambda connection: accounts._create_key(connection, self.now, account_id, key, key),
                    lambda: self.model.create_key(account_id, key),
                )
            case "revoke":
                self._both(
                    lambda connection: accounts._revoke_key(connection, self.now, accounts.key_id(key)),
                    lambda: self.model.revoke_key(key),
                )
            case _:
                self._both(
                    lambda connection: accounts._authenticate(connection, key), lambda: self.model.authenticate(key)
                )

    # ------------------------------------------------------------ webhooks

    @precondition(lambda self: self.model.outbox)
    @rule(shares=st.dictionaries(st.sampled_from(("http://one.test", "http://other.test")), st.integers(1, 3)))
    def take(self, shares: dict[str, int]) -> None:
        taken = self._write(lambda connection: outbox.take(connection, self.now, LEASE, shares))
        self.model.take(taken, LEASE, shares)
        self.letters += taken

    @precondition(lambda self: self.letters)
    @rule(which=_which, next_in=st.sampled_from((None, None, 5.0, 300.0)), is_delivered=st.booleans())
    def record(self, which: int, next_in: float | None, is_delivered: bool) -> None:
        """A letter that is under way, or was taken long ago and perhaps by another since."""
        letter = self._latest(self.letters, which)
        is_delivered = is_delivered and next_in is None
        attempt = Attempt(self.now, 0.5, 200 if is_delivered else 500, None)
        next_at = None if next_in is None else self.now + next_in
        self._both(
            lambda connection: outbox.record(connection, letter, attempt, next_at=next_at, is_delivered=is_delivered),
            lambda: self.model.record(letter, attempt, next_at=next_at, is_delivered=is_delivered),
        )

    @precondition(lambda self: self.model.outbox)
    @rule(which=_which, whose=st.sampled_from(("its own", "its own", "another", "any")))
    def resend(self, which: int, whose: str) -> None:
        task = self._task(which, State.COMPLETED, State.FAILED)
        of_account = {"its own": task.account_id, "another": self.account_ids[which % 3], "any": None}[whose]
        self._both(
            lambda connection: replace(outbox.resend(connection, self.now, of_account, task.id), id=""),
            lambda: self.model.resend(of_account, task.id),
        )

    # ------------------------------------------------------------ after each step

    @invariant()
    def all_is_well(self) -> None:
        before, self.rows = self.rows, self._rows()
        findings = self.ground.look(AUDIT)
        assert not findings, f"the audit finds: not true: {list(CHECKS)[findings[0][0]]}"
        laws(self.rows, before)
        for table, foretold in self._foretold().items():
            found = self.rows[table]
            if found != foretold:
                assert found == foretold, f"the rows of {table} are not what the model foretells"
        self.tally.steps[-1] += 1

    def teardown(self) -> None:
        """The audit as the server runs it says the same."""
        with self.ground.engine.connect() as connection:
            assert not audit(connection) or self.ground.look(AUDIT)

    def _rows(self) -> Rows:
        rows = {table: self.ground.look(query) for table, query in LOOKS.items()}
        for table in UNORDERED:
            rows[table].sort()
        return rows

    def _foretold(self) -> Rows:
        model = self.model
        foretold: Rows = {
            "accounts": [
                (each.id, each.balance, each.frozen, each.limit, each.served) for each in model.accounts.values()
            ],
            "tasks": [
                (
                    *(kept.told.id, kept.told.account_id, kept.told.state, kept.told.attempt, kept.told.losses),
                    *(kept.lease_until, kept.told.step, kept.told.steps, kept.told.started_at, kept.told.ended_at),
                    *(kept.wished_at, kept.cancel_code, kept.told.error_code, kept.told.version, kept.turn),
                    *(kept.told.price, kept.told.pool, kept.told.webhook and kept.told.webhook.url),
                )
                for kept in model.tasks.values()
            ],
            "ledger": list(model.ledger),
            "webhooks": [
                (task_id, each.attempts, each.next_at, each.delivered_at) for task_id, each in model.outbox.items()
            ],
            "deliveries": [(task_id, len(each.log)) for task_id, each in model.outbox.items() if each.log],
            "outputs": [
                (output.id, kept.told.id, position, output.expires_at, model.outputs[output.id].swept_at)
                for kept in model.tasks.values()
                for position, output in enumerate(kept.told.outputs)
            ],
            "inputs": list(model.inputs.items()),
            "previews": list(model.previews.items()),
            "idempotency_keys": [
                (*which, each.body_hash, each.answer.id, each.answer.state, each.created_at)
                for which, each in model.repeats.items()
            ],
            "api_keys": [(each.id, each.account_id, each.revoked_at) for each in model.keys.values()],
        }
        for table in UNORDERED:
            foretold[table].sort()
        return foretold

    # ------------------------------------------------------------ how a verb is run

    def _write(self, verb: Callable[..., T], *arguments: Any) -> T:
        """As `Database` does."""
        with self.ground.engine.begin() as connection, connection.begin_nested():
            return verb(connection, *arguments)

    def _both(self, verb: Callable[[Connection], T], foretell: Callable[[], T]) -> T | Any:
        """They must return the same, or refuse for the same reason."""
        try:
            foretold = foretell()
        except FluxserveError as refusal:
            foretold_refusal = refusal
        else:
            try:
                answer = self._write(verb)
            except FluxserveError as refusal:
                raise AssertionError(f"the model foretells no refusal ({type(refusal).__name__})") from refusal
            assert _told(answer) == foretold, "the answer is not what the model foretells"
            return answer
        try:
            self._write(verb)
        except type(foretold_refusal):
            return ()
        raise AssertionError(f"the model foretells a refusal ({type(foretold_refusal).__name__})")

    # ------------------------------------------------------------ which one

    def _new_name(self, what: str) -> str:
        self.names += 1
        return f"{what}-{self.names}"

    def _latest(self, things: Sequence[T], which: int) -> T:
        return things[-1 - which % len(things)]

    def _task(self, which: int, *states: State) -> Task:
        """One in these states, if there is one."""
        found = self.model.in_state(*states) or list(self.model.tasks.values())
        return self._latest(found, which).told

    def _held(self, which: int, mode: str) -> Held:
        running = [Held(kept.told.id, kept.told.attempt) for kept in self.model.in_state(State.PROCESSING)]
        held = self._latest(running if running and mode == Mode.NOW else self.attempts, which)
        return replace(held, attempt=held.attempt + 1) if mode == Mode.NEVER else held


def _told(answer: Any) -> Any:
    """Tasks without their errors' words, which are for people."""
    if isinstance(answer, Task):
        return replace(answer, error_message=None)
    return [_told(each) for each in answer] if isinstance(answer, list) else answer


# ---------------------------------------------------------------- a run


def run(
    ground: Ground,
    steps: int,
    first_seed: int,
    *,
    loosened: Sequence[str] = (),
    quick: bool = False,
    tally: Tally | None = None,
) -> Tally:
    """At least so many steps, in histories of the seeds from `first_seed` on; raises at the first that goes wrong.

    Unless it is to be `quick`, what went wrong is first brought to its shortest.
    """
    tally = tally or Tally()
    shape = settings(
        database=None,
        deadline=None,
        derandomize=False,
        phases=(Phase.generate,) if quick else (Phase.generate, Phase.shrink),
        report_multiple_bugs=False,
        stateful_step_count=STEPS_OF_ONE,
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet if quick else Verbosity.normal,
    )
    for number in range(first_seed, first_seed + steps):
        left = steps - tally.total
        if left <= 0:
            break
        histories = min(HISTORIES_OF_ONE_SEED, -(-left // STEPS_OF_ONE))

        @seed(number)
        def machine() -> QueueMachine:
            return QueueMachine(ground, tally, loosened)

        run_state_machine_as_test(machine, settings=settings(shape, max_examples=histories))  # type: ignore[arg-type]
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.tasks.machine", description="Play the queue and its model.")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    chosen = parser.parse_args()
    began = time.monotonic()
    print(f"seed {chosen.seed}", flush=True)
    with sqlite_ground() as ground:
        tally = run(ground, chosen.steps, chosen.seed)
    print(f"{tally.total} steps in {len(tally.steps)} histories, {time.monotonic() - began:.0f} s: nothing went wrong")


if __name__ == "__main__":
    main()
