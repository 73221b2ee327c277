"""What is asked at every submission stays cheap however much the others have queued."""

from typing import Any

import pytest
from sqlalchemy import Engine, event

from fluxserve.domain.task import Completed
from tests.tasks.conftest import Bench, picture

pytestmark = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)  # the words of its plans


def test_an_accounts_open_tasks_are_counted_without_a_look_at_anybody_elses(bench: Bench, engine: Engine) -> None:
    bench.limit(1)
    statements = _spy_on_selects_of_tasks(engine)

    first = bench.submit()
    bench.submit()
    (claimed,) = bench.claim(first)
    bench.finish(claimed, Completed((picture("one"),)))

    plans = [_plan(engine, *statement) for statement in tuple(statements)]
    assert len(plans) >= 4
    assert not [plan for plan in plans if "tasks_by_state" in plan or "SCAN tasks" in plan]


def test_who_waits_is_ranked_by_an_index_and_prompts_are_read_of_those_alone_that_are_offered(
    bench: Bench, engine: Engine
) -> None:
    statements = _spy_on_selects_of_tasks(engine)
    bench.submit()
    bench.turns()

    (plan,) = [_plan(engine, *statement) for statement in statements if "row_number" in statement[0]]
    *ranking, offered = plan.split("SEARCH accounts")
    assert "tasks_by_state" in ranking[0]
    assert "SEARCH tasks USING INTEGER PRIMARY KEY" in offered
    assert "SCAN tasks" not in plan


@pytest.mark.parametrize("states", ["'staged'", "'pending', 'processing'"])
def test_the_database_needs_to_be_told_that_those_tasks_are_open(engine: Engine, states: str) -> None:
    count = f"SELECT count(*) FROM tasks WHERE account_id = 'one' AND state IN ({states})"  # noqa: S608

    assert "tasks_open_by_account" not in _plan(engine, count, ())


def _spy_on_selects_of_tasks(engine: Engine) -> list[tuple[str, Any]]:
    """Of everything that counts or looks for the least, which are the questions about many tasks."""
    seen: list[tuple[str, Any]] = []

    @event.listens_for(engine, "before_cursor_execute")
    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        if ("count(" in statement or "min(" in statement) and not statement.startswith("EXPLAIN"):
            seen.append((statement, parameters))

    return seen


def _plan(engine: Engine, statement: str, parameters: Any) -> str:
    with engine.begin() as connection:
        rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        return "; ".join(row[3] for row in rows)
