"""The scheduler holds its laws in a thousand imagined histories (G5, G7, G14), and one that is wrong is found out."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import ColumnElement, Connection, Row, Select, bindparam, select, update

from fluxserve.dispatch import Dispatcher, dispatcher
from fluxserve.dispatch.placement import Placed
from fluxserve.domain.errors import Unavailable
from fluxserve.domain.task import MOVES, Move, State, Waiting
from fluxserve.executors import Report as WorkerReport
from fluxserve.executors import Slot
from fluxserve.tasks import verbs
from fluxserve.tasks.schema import tasks
from tests.dispatch import simulation
from tests.dispatch.simulation import Report
from tests.tasks.mutants import forget_statements

pytestmark = pytest.mark.untraced  # to trace these would take longer than to run them

ENOUGH = 100  # histories, from the given first, in which each fault below is noticed


def check(report: Report) -> None:
    print(report)
    assert report.broken is None, f"python -m tests.dispatch.simulation --seeds 1 --from {report.seed}"
    assert report.tasks > 4 * report.seeds
    assert report.seeds / 3 < report.calm < report.seeds * 2 / 3


@pytest.mark.timeout(1800)  # half a minute, or ten on a machine that is busy with other things
def test_no_law_of_the_scheduler_is_broken_in_a_thousand_histories() -> None:
    check(simulation.run(1000))


def test_the_same_seed_tells_the_same_story_in_another_process() -> None:
    code = "import sys; from tests.dispatch.simulation import told; sys.stdout.write(told(8))"
    stories = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": number, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, text=True, check=True,
        ).stdout
        for number in ("1", "2")
    }  # fmt: skip

    assert len(stories) == 1
    assert len(stories.pop().splitlines()) > 20


# ---------------------------------------------------------------- schedulers that are wrong


def first_come_first_served(waiting: Sequence[Waiting], slots: Sequence[Slot]) -> list[Placed]:
    lines = sorted(waiting, key=lambda task: task.number)
    return [
        Placed(task, slot)
        for pool in {slot.pool for slot in slots}
        for task, slot in zip(
            [task for task in lines if task.pool == pool],
            sorted((slot for slot in slots if slot.pool == pool), key=lambda slot: (slot.ahead, slot.worker)),
            strict=False,
        )
    ]


def anywhere(waiting: Sequence[Waiting], slots: Sequence[Slot]) -> list[Placed]:
    return list(map(Placed, sorted(waiting, key=lambda task: task.number), slots))


def move_without_guard(connection: Connection, move: Move, task_id: str, **values: Any) -> Row[Any]:
    moved = update(tasks).where(tasks.c.id == task_id).values(state=MOVES[move][1], **values)
    return connection.execute(moved.returning(tasks)).one()


def held_by_anyone() -> ColumnElement[bool]:
    return (tasks.c.id == bindparam("of_task")) & (tasks.c.state == State.PROCESSING)


def not_ended() -> Select[Any]:
    return select(tasks).where(tasks.c.id == bindparam("of_task"), tasks.c.ended_at.is_(None))


def claim_of_what_is_claimed(*arguments: Any, claim: Any = verbs.claim) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verbs, "_pending", not_ended)
        patch.setattr(verbs, "_move", move_without_guard)
        return claim(*arguments)


def turn_of_any_pool(connection: Connection, served: int, _pool: str) -> int:
    last: int = connection.execute(verbs._LAST_TURN).scalar_one()
    return max(served, last)


def rescue_ignoring_leases(
    connection: Connection, now: float, losses_allowed: int, *, rescue: Any = verbs.rescue, **_: bool
) -> Any:
    return rescue(connection, now, losses_allowed, everything=True)


async def record_once(self: Dispatcher, report: WorkerReport) -> None:
    if attempt := self._held.get(report.job_id):
        with suppress(Unavailable, OSError):
            await self._end(report.job_id, await self._ending(attempt.task, report))


@pytest.mark.parametrize(
    ("where", "name", "wrong", "law", "first"),
    [
        (dispatcher, "place", first_come_first_served, "its account's first, began after|was given", 0),
        (dispatcher, "place", anywhere, "was handed to a worker of", 0),
        (verbs, "_turn", turn_of_any_pool, "began after|was given", 400),
        (verbs, "claim", claim_of_what_is_claimed, "went on from|processing to processing|never changes", 0),
        (verbs, "_is_held", held_by_anyone, "was completed with|while its lease ran", 300),
        (verbs, "rescue", rescue_ignoring_leases, "while its lease ran|though nothing had happened", 0),
        (verbs, "shorten_leases", lambda *_arguments: None, "is still processing", 1100),
        (verbs, "_has_room", lambda *_arguments: True, "more tasks waiting and running than it may", 0),
        (Dispatcher, "_record", record_once, "is still processing", 0),
    ],
    ids=[
        "tasks are taken first come, first served",
        "pools are not looked at",
        "private work costs a turn of the public pool",
        "a claim takes what is claimed already",
        "a finish does not ask for its attempt",
        "a rescue does not ask for the lease",
        "a lease from before the clock was set back stays",
        "limits are not looked at",
        "an ending is written only once",
    ],
)
def test_a_scheduler_that_is_wrong_is_found_out(
    where: Any, name: str, wrong: Callable[..., Any], law: str, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, name, wrong)
    forget_statements()
    report = simulation.run(ENOUGH, first)
    forget_statements()

    print(report.seeds, report.broken)
    assert report.broken is not None
    assert any(part in report.broken for part in law.split("|")), report.broken


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_no_law_of_the_scheduler_is_broken_in_twenty_thousand_histories() -> None:
    check(simulation.run(20_000, first=1_000_000))
