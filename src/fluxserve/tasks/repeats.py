"""Requests that their callers may send again: one idempotency key makes one task, or one upload, for a day.

Each function is a verb.
"""

from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select

from fluxserve.domain.errors import KeyReused, shown
from fluxserve.domain.task import Repeatable, State, Task
from fluxserve.tasks.rows import row_of, task_of
from fluxserve.tasks.schema import idempotency_keys

KEPT_SECONDS = 24 * 3600.0


def made_before(connection: Connection, now: float, account_id: str, repeatable: Repeatable) -> Task | None:
    """The task that this request made when it came first, as it was then; None if it is the first.

    Raises `KeyReused` if the key came with another body.
    """
    row = _first(connection, now, account_id, repeatable)
    if row is None:
        return None
    return _as_submitted(task_of(connection, row_of(connection, row.task_id)), State(row.first_state))


def uploaded_before(connection: Connection, now: float, account_id: str, repeatable: Repeatable) -> str | None:
    """The id of the upload that this request made when it came first. Raises `KeyReused`."""
    row = _first(connection, now, account_id, repeatable)
    return None if row is None else str(row.upload_id)


def _first(connection: Connection, now: float, account_id: str, repeatable: Repeatable) -> Row[Any] | None:
    """What is noted of the request with this key. Raises `KeyReused`."""
    row = connection.execute(
        select(idempotency_keys).where(
            idempotency_keys.c.account_id == account_id,
            idempotency_keys.c.key == repeatable.key,
            idempotency_keys.c.created_at > now - KEPT_SECONDS,
        )
    ).one_or_none()
    if row is not None and row.body_hash != repeatable.body_hash:
        raise KeyReused(
            f"Idempotency-Key: {shown(repeatable.key)} came before with another body; a key names one request for 24 "
            "hours, so this one needs another"
        )
    return row


def note_task(connection: Connection, now: float, task: Task, repeatable: Repeatable) -> None:
    """In the transaction that makes the task."""
    _note(connection, now, task.account_id, repeatable, task_id=task.id, first_state=task.state)


def note_upload(connection: Connection, now: float, account_id: str, upload_id: str, repeatable: Repeatable) -> None:
    """In the transaction that makes the upload."""
    _note(connection, now, account_id, repeatable, upload_id=upload_id)


def _note(connection: Connection, now: float, account_id: str, repeatable: Repeatable, **made: str) -> None:
    same = (idempotency_keys.c.account_id == account_id) & (idempotency_keys.c.key == repeatable.key)
    connection.execute(delete(idempotency_keys).where(same))  # one that is too old to count
    connection.execute(
        insert(idempotency_keys).values(
            account_id=account_id, key=repeatable.key, body_hash=repeatable.body_hash, created_at=now, **made
        )
    )


def forget_old(connection: Connection, now: float) -> None:
    connection.execute(delete(idempotency_keys).where(idempotency_keys.c.created_at <= now - KEPT_SECONDS))


def _as_submitted(task: Task, state: State) -> Task:
    return replace(
        task,
        state=state,
        attempt=0,
        losses=0,
        version=0,
        started_at=None,
        ended_at=None,
        step=None,
        steps=None,
        error_code=None,
        error_message=None,
        outputs=(),
    )
