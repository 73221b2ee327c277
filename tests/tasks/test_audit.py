"""The audit finds each kind of harm: every invariant is broken once, on purpose."""

from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from fluxserve.domain.task import Completed, Errored
from fluxserve.tasks import migrate, open_engine
from fluxserve.tasks.accounts import _ensure_first
from fluxserve.tasks.audit import CHECKS, audit
from tests.tasks.conftest import Bench, picture

HARM = {
    "an account's balance is the sum of its ledger": "UPDATE accounts SET balance = balance - 1",
    "an account's frozen points are the sum of its ledger": "UPDATE accounts SET frozen = frozen + 1",
    "an account's frozen points are the prices of its open tasks": "UPDATE tasks SET price = 1 WHERE state = 'pending'",
    "every task's price was held": "UPDATE ledger SET frozen_change = 1 WHERE phase = 'hold'",
    "a completed task is settled, and no other": "DELETE FROM ledger WHERE phase = 'settle'",
    "a failed task is released, and no other": "DELETE FROM ledger WHERE phase = 'release'",
    "a task is completed if and only if it has outputs": "DELETE FROM outputs",
    "a failed task says why": "UPDATE tasks SET error_message = '' WHERE state = 'failed'",
    "no account runs more than it may": "UPDATE accounts SET max_concurrent = 0",
    "nothing is staged while its account has room": "UPDATE tasks SET state = 'staged' WHERE state = 'pending'",
}


@pytest.fixture
def harmed(tmp_path: Path) -> Engine:
    """A database without its guards, with a pending, a completed and a failed task."""
    engine = open_engine(tmp_path / "harmed.sqlite")
    migrate(engine)
    with engine.begin() as connection:
        account = _ensure_first(connection, 0.0, 10_000_000, 1000)
    bench = Bench(engine, account.id)
    bench.finish(bench.claimed(), Completed((picture("one"),)))
    bench.finish(bench.claimed(), Errored("drawing_failed", "it broke"))
    bench.submit()
    with engine.begin() as connection:
        for name in connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).scalars().all():
            connection.exec_driver_sql(f"DROP TRIGGER {name}")
    return engine


def test_nothing_is_found_where_all_is_well(harmed: Engine) -> None:
    with harmed.connect() as connection:
        assert audit(connection) == []


@pytest.mark.parametrize("invariant", CHECKS)
def test_each_harm_is_found(harmed: Engine, invariant: str) -> None:
    with harmed.begin() as connection:
        connection.exec_driver_sql(HARM[invariant])
        assert any(invariant in finding for finding in audit(connection))
