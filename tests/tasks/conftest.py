"""A real database for each test, SQLite and PostgreSQL in turn, with one account that can afford everything."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, text

from fluxserve.domain.completion import Completion, CompletionEnding, NewCompletion
from fluxserve.domain.generation import Generation, TextToImage
from fluxserve.domain.task import Ending, Output, Submission, Task
from fluxserve.tasks import completions, migrate, open_postgresql, open_sqlite, verbs
from fluxserve.tasks.accounts import _create, _ensure_first, _get, _limit
from fluxserve.tasks.audit import audit
from tests.postgresql import Postgres

PICTURE = Generation("flux1-schnell", TextToImage("a little cat"), 256, 256, 4, None, 1)
PRICE = 20_000
CREDIT = 10_000_000
LEASE = 30.0
LOSSES = 3


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """Migrated; whatever a test did to it, its invariants hold at the end."""
    if request.param == "sqlite":
        engine = open_sqlite(tmp_path / "queue.sqlite")
        migrate(engine)
    else:
        server: Postgres = request.getfixturevalue("postgresql")
        engine = open_postgresql(server.emptied())
    yield engine
    with engine.begin() as connection:
        assert audit(connection) == []
    engine.dispose()


@contextmanager
def without_guards(connection: Connection) -> Iterator[None]:
    """Triggers stand aside: what they would refuse can be done."""
    if connection.dialect.name == "sqlite":
        triggers = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")).all()
        for trigger in triggers:
            connection.exec_driver_sql(f"DROP TRIGGER {trigger.name}")
        yield
        for trigger in triggers:
            connection.exec_driver_sql(trigger.sql)
    else:
        for table in ("tasks", "ledger", "completions"):
            connection.exec_driver_sql(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        yield
        for table in ("tasks", "ledger", "completions"):
            connection.exec_driver_sql(f"ALTER TABLE {table} ENABLE TRIGGER USER")


class Bench:
    """The verbs at a clock that the test sets, each in a transaction of its own."""

    def __init__(self, engine: Engine, account_id: str) -> None:
        self.engine = engine
        self.account_id = account_id
        self.now = 1000.0
        self._number = 0

    def submit(
        self,
        *,
        price: int = PRICE,
        most_staged: int = 50,
        deadline: float = 1e9,
        account_id: str | None = None,
        generation: Generation = PICTURE,
        **more: Any,
    ) -> Task:
        """`more` are further fields of the submission."""
        self._number += 1
        asked = Submission(account_id or self.account_id, {"number": self._number}, generation, **more)
        with self.engine.begin() as connection:
            return verbs.submit(
                connection,
                self.now,
                asked,
                task_id=f"task-{self._number}",
                price=price,
                deadline=deadline,
                most_staged=most_staged,
            )

    def claim(self, *tasks: Task, early: bool = False) -> list[Task]:
        ids = [task.id for task in tasks]
        with self.engine.begin() as connection:
            return verbs.claim(connection, self.now, LEASE, ids, ids if early else ())

    def claimed(self) -> Task:
        (task,) = self.claim(self.submit())
        return task

    def finish(self, task: Task, ending: Ending) -> Task | None:
        with self.engine.begin() as connection:
            return verbs.finish(connection, self.now, held(task), ending, LOSSES)

    def get(self, task: Task) -> Task:
        with self.engine.begin() as connection:
            return verbs.get(connection, task.account_id, task.id)

    def cancel(self, task: Task) -> Task:
        with self.engine.begin() as connection:
            return verbs.cancel(connection, self.now, task.account_id, task.id)

    def hold(self, *, price: int = 1000, account_id: str | None = None, **more: Any) -> Completion:
        """A completion that is under way; `more` are further fields of what was asked."""
        self._number += 1
        asked = NewCompletion(account_id or self.account_id, "a-text-model", price, **more)
        with self.engine.begin() as connection:
            return completions._hold(connection, self.now, asked, f"completion-{self._number}", LEASE)

    def end(self, completion: Completion, ending: CompletionEnding) -> bool:
        with self.engine.begin() as connection:
            return completions._finish(connection, self.now, completion.id, ending)

    def completion(self, completion: Completion) -> Completion:
        """As it is now."""
        with self.engine.begin() as connection:
            return completions._get(connection, self.now, completion.account_id, completion.id)

    def rescue_completions(self, *, everything: bool = False) -> list[str]:
        """Returns the ids of those that were ended."""
        with self.engine.begin() as connection:
            rescued = completions._rescue(connection, self.now, LEASE, everything=everything)
        return [each.id for each in rescued]

    def turns(self) -> dict[str, int]:
        """Where the account of each pending task stands."""
        with self.engine.begin() as connection:
            return {task.task_id: task.turn for task in verbs.waiting(connection, 100)}

    def points(self) -> tuple[int, int]:
        """(balance, frozen)"""
        with self.engine.begin() as connection:
            account = _get(connection, self.account_id)
        return account.balance, account.frozen

    def limit(self, max_concurrent: int) -> None:
        with self.engine.begin() as connection:
            _limit(connection, self.account_id, max_concurrent)

    def another_account(self) -> str:
        """The id of one as rich as the first."""
        with self.engine.begin() as connection:
            return _create(connection, self.now, "another", CREDIT, 1000).id


@pytest.fixture
def bench(engine: Engine) -> Bench:
    with engine.begin() as connection:
        account = _ensure_first(connection, 0.0, CREDIT, 1000)
    return Bench(engine, account.id)


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    with engine.begin() as connection:
        yield connection


def held(task: Task) -> verbs.Held:
    return verbs.Held(task.id, task.attempt)


def picture(name: str, *, expires_at: float = 5000.0) -> Output:
    return Output(name, f"{name}.png", "image/png", 3, 256, 256, 1, expires_at)
