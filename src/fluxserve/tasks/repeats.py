"""Requests that their callers may send again: one idempotency key makes one task, one upload, one chat completion, or
one change of the operator's, for a day.

Each function is a verb.
"""

import json
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, insert, select

from fluxserve.domain.completion import Completion
from fluxserve.domain.errors import KeyReused, shown
from fluxserve.domain.task import Repeatable, State, Task
from fluxserve.tasks.rows import row_of, task_of
from fluxserve.tasks.schema import idempotency_keys, operator_keys

KEPT_SECONDS = 24 * 3600.0

_FORGOTTEN = delete(idempotency_keys).where(idempotency_keys.c.completion_id == bindparam("of_completion"))


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


def completion_before(connection: Connection, now: float, account_id: str, repeatable: Repeatable) -> str | None:
    """The id of the completion that this request made when it came first. Raises `KeyReused`."""
    row = _first(connection, now, account_id, repeatable)
    return None if row is None else str(row.completion_id)


def _first(connection: Connection, now: float, account_id: str, repeatable: Repeatable) -> Row[Any] | None:
    """What is noted of the request with this key. Raises `KeyReused`."""
    row = connection.execute(
        select(idempotency_keys).where(
            idempotency_keys.c.account_id == account_id,
            idempotency_keys.c.key == repeatable.key,
            idempotency_keys.c.created_at > now - KEPT_SECONDS,
        )
    ).one_or_none()
    _check_same(row, repeatable)
    return row


def _check_same(row: Row[Any] | None, repeatable: Repeatable) -> None:
    if row is not None and row.body_hash != repeatable.body_hash:
        raise KeyReused(
            f"Idempotency-Key: {shown(repeatable.key)} came before with another body; a key names one request for 24 "
            "hours, so this one needs another"
        )


def note_task(connection: Connection, now: float, task: Task, repeatable: Repeatable) -> None:
    """In the transaction that makes the task."""
    _note(connection, now, task.account_id, repeatable, task_id=task.id, first_state=task.state)


def note_upload(connection: Connection, now: float, account_id: str, upload_id: str, repeatable: Repeatable) -> None:
    """In the transaction that makes the upload."""
    _note(connection, now, account_id, repeatable, upload_id=upload_id)


def note_completion(connection: Connection, now: float, completion: Completion, repeatable: Repeatable) -> None:
    """In the transaction that makes the completion."""
    _note(connection, now, completion.account_id, repeatable, completion_id=completion.id)


def forget_completion(connection: Connection, completion_id: str) -> None:
    """Nothing came of it, so its request may come for the first time once more."""
    connection.execute(_FORGOTTEN, {"of_completion": completion_id})


def _note(connection: Connection, now: float, account_id: str, repeatable: Repeatable, **made: str) -> None:
    same = (idempotency_keys.c.account_id == account_id) & (idempotency_keys.c.key == repeatable.key)
    connection.execute(delete(idempotency_keys).where(same))  # one that is too old to count
    connection.execute(
        insert(idempotency_keys).values(
            account_id=account_id, key=repeatable.key, body_hash=repeatable.body_hash, created_at=now, **made
        )
    )


def operator_answer(connection: Connection, now: float, repeatable: Repeatable) -> dict[str, Any] | None:
    """What the operator was told when this request came first; None if it is the first. Raises `KeyReused`."""
    row = connection.execute(
        select(operator_keys).where(
            operator_keys.c.key == repeatable.key, operator_keys.c.created_at > now - KEPT_SECONDS
        )
    ).one_or_none()
    _check_same(row, repeatable)
    return None if row is None else dict(json.loads(row.answer))


def note_operator_answer(connection: Connection, now: float, answer: dict[str, Any], repeatable: Repeatable) -> None:
    """In the transaction that does what is told."""
    connection.execute(delete(operator_keys).where(operator_keys.c.key == repeatable.key))  # too old to count
    connection.execute(
        insert(operator_keys).values(
            key=repeatable.key, body_hash=repeatable.body_hash, answer=json.dumps(answer), created_at=now
        )
    )


def forget_old(connection: Connection, now: float) -> None:
    for table in (idempotency_keys, operator_keys):
        connection.execute(delete(table).where(table.c.created_at <= now - KEPT_SECONDS))


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
