"""Rows of the database: as the domain's words, and locked."""

import json
from typing import Any

from sqlalchemy import Connection, Row, bindparam, select

from fluxserve.domain.generation import from_json
from fluxserve.domain.task import Output, State, Task, Webhook
from fluxserve.tasks.schema import accounts, outputs, tasks

# Built once: building a statement costs more than running it, and these run for every task.
_OUTPUTS = select(outputs).where(outputs.c.task_id == bindparam("of_task")).order_by(outputs.c.position)
_ACCOUNT_LOCK = select(accounts.c.id).where(accounts.c.id == bindparam("of_account")).with_for_update()


def can_be_id(text: str) -> bool:
    """Whether the database can be asked for it at all: a NUL or half a character is an error to some."""
    return text.isascii() and text.isprintable()


def lock_account(connection: Connection, account_id: str) -> None:
    """What is counted next stays as it was counted. SQLite has one writer in any case.

    A statement of its own: one that waits for a row counts as of before its wait.
    """
    if connection.dialect.name != "sqlite":
        connection.execute(_ACCOUNT_LOCK, {"of_account": account_id})


def row_of(connection: Connection, task_id: str) -> Row[Any]:
    return connection.execute(select(tasks).where(tasks.c.id == task_id)).one()


def task_of(connection: Connection, row: Row[Any]) -> Task:
    pictures: tuple[Output, ...] = ()
    if row.state == State.COMPLETED:
        found = connection.execute(_OUTPUTS, {"of_task": row.id})
        pictures = tuple(output_of(each) for each in found)
    return Task(
        id=row.id,
        account_id=row.account_id,
        request=json.loads(row.request),
        generation=from_json(json.loads(row.generation)),
        state=State(row.state),
        price=row.price,
        attempt=row.attempt,
        losses=row.losses,
        created_at=row.created_at,
        pool=row.pool,
        version=row.version,
        api_key_id=row.api_key_id,
        deadline=row.deadline,
        webhook=None if row.webhook_url is None else Webhook(row.webhook_url, row.webhook_secret),
        started_at=row.started_at,
        ended_at=row.ended_at,
        step=row.step,
        steps=row.steps,
        error_code=row.error_code,
        error_message=row.error_message,
        outputs=pictures,
    )


def output_of(row: Row[Any]) -> Output:
    return Output(row.id, row.key, row.content_type, row.size, row.width, row.height, row.seed, row.expires_at)
