"""An account's tasks, many at a time. Each function is a verb that reads."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, func, select

from fluxserve.domain.task import State, Task
from fluxserve.tasks.rows import task_of
from fluxserve.tasks.schema import IS_OPEN, tasks


@dataclass(frozen=True, slots=True)
class Sought:
    """Which of an account's tasks: by their model, and created from `since` up to, not at, `before` (unix seconds)."""

    model: str | None = None
    since: float | None = None
    before: float | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """`tasks` are those of one page, newest first; `total` is how many there are on all."""

    tasks: tuple[Task, ...]
    total: int


def has_tasks(connection: Connection) -> bool:
    """Whether there ever was one, of any account."""
    return connection.execute(select(tasks.c.number).limit(1)).first() is not None


def number_waiting(connection: Connection) -> int:
    """Tasks of all accounts that have not begun."""
    waiting = select(func.count()).select_from(tasks).where(tasks.c.state.in_((State.STAGED, State.PENDING)))
    return connection.execute(waiting).scalar_one()


def open_tasks(connection: Connection, account_id: str, sought: Sought) -> list[Task]:
    """Those that have not ended, oldest first."""
    rows = connection.execute(select(tasks).where(_sought(account_id, sought), IS_OPEN).order_by(tasks.c.number))
    return [task_of(connection, row) for row in rows.all()]


def history(connection: Connection, account_id: str, sought: Sought, page: int, size: int) -> Page:
    """Page number `page`, from 1, of `size` tasks each."""
    where = _sought(account_id, sought)
    total = connection.execute(select(func.count()).select_from(tasks).where(where)).scalar_one()
    rows = connection.execute(
        select(tasks).where(where).order_by(tasks.c.number.desc()).limit(size).offset((page - 1) * size)
    )
    return Page(tuple(task_of(connection, row) for row in rows.all()), total)


def _sought(account_id: str, sought: Sought) -> ColumnElement[bool]:
    where = tasks.c.account_id == account_id
    if sought.model is not None:
        where &= tasks.c.model == sought.model
    if sought.since is not None:
        where &= tasks.c.created_at >= sought.since
    if sought.before is not None:
        where &= tasks.c.created_at < sought.before
    return where
