"""The migrations make what the code expects, and the database itself refuses what must never happen."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, delete, insert, inspect, text, update
from sqlalchemy.exc import IntegrityError

from fluxserve.domain.task import Completed, Errored, State, allowed_moves
from fluxserve.tasks import migrate, open_postgresql, open_sqlite
from fluxserve.tasks.audit import audit
from fluxserve.tasks.schema import accounts, ledger, metadata, tasks
from tests.postgresql import Postgres
from tests.tasks.conftest import Bench, picture, without_guards


def test_migrations_make_the_tables_that_the_code_expects(engine: Engine) -> None:
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_tables_made_by_migrations_and_by_the_code_have_the_same_columns_and_checks(
    engine: Engine, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if engine.dialect.name == "sqlite":
        by_code = open_sqlite(tmp_path / "by_code.sqlite")
    else:
        server: Postgres = request.getfixturevalue("postgresql")
        by_code = open_postgresql(server.fresh(template="template1"))
    metadata.create_all(by_code)

    made, migrated = _tables(by_code), _tables(engine)
    by_code.dispose()
    assert made.keys() == migrated.keys()
    for table, everything in made.items():
        assert everything == migrated[table]


def test_migrating_again_changes_nothing(engine: Engine) -> None:
    before = _tables(engine)
    migrate(engine)
    assert _tables(engine) == before


def test_sqlite_commits_durably(tmp_path: Path) -> None:
    with open_sqlite(tmp_path / "queue.sqlite").connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL


def test_tasks_of_the_version_before_are_given_their_models(tmp_path: Path) -> None:
    engine = open_sqlite(tmp_path / "old.sqlite")
    migrate(engine, to="0002")
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO accounts VALUES ('a', 'first', 0, 0, 1, 0.0)"))
        for state in ("pending", "failed"):
            connection.execute(
                text(
                    "INSERT INTO tasks (id, account_id, request, generation, state, price, attempt, losses, "
                    "created_at, ended_at) VALUES (:state, 'a', '{}', :generation, :state, 0, 0, 0, 0.0, :ended)"
                ),
                {
                    "state": state,
                    "generation": '{"model": "flux1-dev"}',
                    "ended": None if state == "pending" else 1.0,
                },
            )

    migrate(engine)

    with engine.begin() as connection:
        assert connection.execute(text("SELECT DISTINCT model FROM tasks")).scalars().all() == ["flux1-dev"]
        with pytest.raises(IntegrityError, match="never changes"):
            connection.execute(text("UPDATE tasks SET price = 7 WHERE id = 'failed'"))


def test_idempotency_keys_of_the_version_before_are_kept(tmp_path: Path, postgresql: Postgres) -> None:
    for engine in (
        open_sqlite(tmp_path / "old.sqlite"),
        open_postgresql(postgresql.fresh(template="template1")),
    ):
        migrate(engine, to="0003")
        with engine.begin() as connection:
            for row in (
                "accounts VALUES ('a', 'first', 0, 0, 1, 0.0, 0)",
                "tasks (id, account_id, request, generation, state, price, attempt, losses, created_at) "
                "VALUES ('t', 'a', '{}', '{}', 'pending', 0, 0, 0, 0.0)",
                "idempotency_keys VALUES ('a', 'k', :hash, 't', 'staged', 1.0)",
            ):
                connection.execute(text(f"INSERT INTO {row}"), {"hash": bytes(32)} if ":hash" in row else {})

        migrate(engine)

        with engine.begin() as connection:
            (kept,) = connection.execute(text("SELECT key, task_id, first_state, upload_id FROM idempotency_keys"))
        engine.dispose()
        assert tuple(kept) == ("k", "t", "staged", None)


def test_the_ledger_of_the_version_before_is_kept(tmp_path: Path, postgresql: Postgres) -> None:
    for engine in (
        open_sqlite(tmp_path / "old.sqlite"),
        open_postgresql(postgresql.fresh(template="template1")),
    ):
        migrate(engine, to="0004")
        with engine.begin() as connection:
            for row in (
                "accounts VALUES ('a', 'first', 80, 20, 1, 0.0, 0)",
                "tasks (id, account_id, request, generation, state, price, attempt, losses, created_at) "
                "VALUES ('t', 'a', '{}', '{}', 'pending', 20, 0, 0, 0.0)",
                "ledger (account_id, phase, balance_change, frozen_change, at) VALUES ('a', 'deposit', 100, 0, 1.0)",
                "ledger (account_id, task_id, phase, balance_change, frozen_change, at) "
                "VALUES ('a', 't', 'hold', -20, 20, 2.0)",
            ):
                connection.execute(text(f"INSERT INTO {row}"))

        migrate(engine)

        with engine.begin() as connection:
            kept = connection.execute(
                text("SELECT task_id, completion_id, phase, balance_change FROM ledger ORDER BY id")
            )
            assert [tuple(row) for row in kept] == [(None, None, "deposit", 100), ("t", None, "hold", -20)]
            assert audit(connection) == []
        with pytest.raises(IntegrityError), engine.begin() as connection:
            connection.execute(
                text(
                    "INSERT INTO ledger (account_id, task_id, phase, balance_change, frozen_change, at) "
                    "VALUES ('a', 't', 'hold', 0, 0, 3.0)"
                )
            )
        engine.dispose()


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
    with without_guards(connection):
        connection.execute(update(tasks).where(tasks.c.id == task_id).values(**_consistent(state)))


def _consistent(state: State) -> dict[str, object]:
    return {
        "state": state,
        "lease_until": 1.0 if state is State.PROCESSING else None,
        "ended_at": 1.0 if state.is_final else None,
    }


def _tables(engine: Engine) -> dict[str, Any]:
    """Everything about each table that the database tells."""
    seen = inspect(engine)
    return {
        name: {
            "columns": {
                column["name"]: (str(column["type"]), column["nullable"], str(column["default"]))
                for column in seen.get_columns(name)
            },
            "key": seen.get_pk_constraint(name)["constrained_columns"],
            "foreign": sorted(
                str((key["constrained_columns"], key["referred_table"])) for key in seen.get_foreign_keys(name)
            ),
            "checks": sorted((check["name"], check["sqltext"]) for check in seen.get_check_constraints(name)),
            "unique": sorted(str(each["column_names"]) for each in seen.get_unique_constraints(name)),
            "indexes": sorted(
                str((index["name"], index["column_names"], index["unique"], _condition(index)))
                for index in seen.get_indexes(name)
                if not index.get("duplicates_constraint")
            ),
        }
        for name in seen.get_table_names()
        if name != "alembic_version"
    }


def _condition(index: Any) -> list[str]:
    return sorted(str(value) for option, value in index.get("dialect_options", {}).items() if option.endswith("where"))
