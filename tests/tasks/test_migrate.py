"""The migrations make what the code expects, and the database itself refuses what must never happen."""

import itertools
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, delete, insert, text, update
from sqlalchemy.exc import IntegrityError

from fluxserve.domain.task import Completed, Errored, State, allowed_moves
from fluxserve.tasks import migrate, open_engine
from fluxserve.tasks.schema import accounts, ledger, metadata, tasks
from tests.tasks.conftest import Bench, picture


def test_migrations_make_the_tables_that_the_code_expects(engine: Engine) -> None:
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_tables_made_by_migrations_and_by_the_code_have_the_same_columns_and_checks(
    engine: Engine, tmp_path: Path
) -> None:
    by_code = open_engine(tmp_path / "by_code.sqlite")
    with by_code.begin() as connection:
        metadata.create_all(connection)

    assert _tables(engine) == _tables(by_code)
    by_code.dispose()


def test_migrating_again_changes_nothing(engine: Engine) -> None:
    before = _tables(engine)
    migrate(engine)
    assert _tables(engine) == before


def test_the_database_commits_durably(engine: Engine) -> None:
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL


@pytest.mark.parametrize(("before", "after"), list(itertools.permutations(State, 2)), ids=lambda state: str(state))
def test_the_database_allows_exactly_the_moves_of_the_table(bench: Bench, before: State, after: State) -> None:
    task = bench.submit()
    with bench.engine.connect() as connection:
        _force(connection, task.id, before)
        try:
            connection.execute(update(tasks).where(tasks.c.id == task.id).values(**_consistent(after)))
            allowed = True
        except IntegrityError:
            allowed = False
        connection.rollback()

    assert allowed == ((before, after) in allowed_moves())


@pytest.mark.parametrize("column", ["error_message", "price", "attempt", "request"])
def test_the_database_refuses_to_change_a_finished_task(bench: Bench, column: str) -> None:
    task = bench.claimed()
    bench.finish(task, Errored("a", "b"))

    with pytest.raises(IntegrityError, match="never changes"), bench.engine.begin() as connection:
        connection.execute(update(tasks).values({column: 7}))


def test_the_database_refuses_to_change_the_ledger(bench: Bench) -> None:
    bench.submit()

    for change in (update(ledger).values(balance_change=0), delete(ledger)):
        with pytest.raises(IntegrityError, match="append-only"), bench.engine.begin() as connection:
            connection.execute(change)


@pytest.mark.parametrize("phase", ["hold", "settle", "release"])
def test_the_database_refuses_a_second_ending_of_a_hold(bench: Bench, phase: str) -> None:
    task = bench.claimed()
    bench.finish(task, Completed((picture("one"),)))

    with pytest.raises(IntegrityError), bench.engine.begin() as connection:
        connection.execute(
            insert(ledger).values(
                account_id=bench.account_id, task_id=task.id, phase=phase, balance_change=0, frozen_change=0, at=1.0
            )
        )


@pytest.mark.parametrize("column", ["balance", "frozen"])
def test_the_database_refuses_negative_points(bench: Bench, column: str) -> None:
    with pytest.raises(IntegrityError), bench.engine.begin() as connection:
        connection.execute(update(accounts).values({column: -1}))


def _force(connection: Connection, task_id: str, state: State) -> None:
    """Put a task into a state without any of the moves."""
    triggers = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")).all()
    for trigger in triggers:
        connection.exec_driver_sql(f"DROP TRIGGER {trigger.name}")
    connection.execute(update(tasks).where(tasks.c.id == task_id).values(**_consistent(state)))
    for trigger in triggers:
        connection.exec_driver_sql(trigger.sql)


def _consistent(state: State) -> dict[str, object]:
    return {
        "state": state,
        "lease_until": 1.0 if state is State.PROCESSING else None,
        "ended_at": 1.0 if state.is_final else None,
    }


def _tables(engine: Engine) -> dict[str, list[str]]:
    """Each table's and index's SQL, as a sorted list of its parts."""
    with engine.connect() as connection:
        found = connection.execute(
            text("SELECT name, sql FROM sqlite_master WHERE type IN ('table', 'index') AND sql IS NOT NULL")
        )
        return {
            row.name: sorted(part.strip().rstrip(",") for part in row.sql.splitlines() if part.strip())
            for row in found
            if row.name != "alembic_version"
        }
