"""A real database for each test, with one account that can afford everything."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine

from fluxserve.domain.generation import Generation, TextToImage
from fluxserve.domain.task import Ending, Output, Task
from fluxserve.tasks import migrate, open_engine, verbs
from fluxserve.tasks.accounts import _ensure_first
from fluxserve.tasks.audit import audit

PICTURE = Generation("flux1-schnell", TextToImage("a little cat"), 256, 256, 4, None, 1)
PRICE = 20_000
CREDIT = 10_000_000
LEASE = 30.0
LOSSES = 3


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """Migrated; whatever a test did to it, its invariants hold at the end."""
    engine = open_engine(tmp_path / "queue.sqlite")
    migrate(engine)
    yield engine
    with engine.begin() as connection:
        assert audit(connection) == []
    engine.dispose()


class Bench:
    """The verbs at a clock that the test sets, each in a transaction of its own."""

    def __init__(self, engine: Engine, account_id: str) -> None:
        self.engine = engine
        self.account_id = account_id
        self.now = 1000.0
        self._number = 0

    def submit(self, *, price: int = PRICE, most_staged: int = 50) -> Task:
        self._number += 1
        with self.engine.begin() as connection:
            return verbs.submit(
                connection,
                self.now,
                task_id=f"task-{self._number}",
                account_id=self.account_id,
                request={"number": self._number},
                generation=PICTURE,
                price=price,
                most_staged=most_staged,
            )

    def claim(self, *tasks: Task) -> list[Task]:
        with self.engine.begin() as connection:
            return verbs.claim(connection, self.now, LEASE, [task.id for task in tasks])

    def claimed(self) -> Task:
        (task,) = self.claim(self.submit())
        return task

    def finish(self, task: Task, ending: Ending) -> Task | None:
        with self.engine.begin() as connection:
            return verbs.finish(connection, self.now, held(task), ending, LOSSES)

    def get(self, task: Task) -> Task:
        with self.engine.begin() as connection:
            return verbs.get(connection, self.account_id, task.id)

    def points(self) -> tuple[int, int]:
        """(balance, frozen)"""
        from fluxserve.tasks.accounts import _get

        with self.engine.begin() as connection:
            account = _get(connection, self.account_id)
        return account.balance, account.frozen

    def limit(self, max_concurrent: int) -> None:
        from fluxserve.tasks.schema import accounts

        with self.engine.begin() as connection:
            connection.execute(accounts.update().values(max_concurrent=max_concurrent))


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
