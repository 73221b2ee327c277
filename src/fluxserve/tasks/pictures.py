"""What the database knows of pictures on the shelf: outputs, inputs, uploads and previews. Each function is a verb."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, delete, func, insert, select, true, union_all, update

from fluxserve.domain.errors import NotFound, TooMany
from fluxserve.domain.task import Output, Repeatable, State
from fluxserve.tasks import repeats
from fluxserve.tasks.rows import lock_account, output_of
from fluxserve.tasks.schema import inputs, outputs, previews, tasks, uploads

NOTHING = "no picture has this address, or it has expired"
# Built once: building a statement costs more than running it, and this one runs for every task.
_FORGET_PREVIEW = delete(previews).where(previews.c.task_id == bindparam("of_task"))
FINAL = tuple(state for state in State if state.is_final)


@dataclass(frozen=True, slots=True)
class Stored:
    """A picture that has an address: where it lies on the shelf, and until when it may be fetched (unix seconds)."""

    key: str
    expires_at: float


def stored(connection: Connection, now: float, picture_id: str) -> Stored:
    """An output or an upload. Raises `NotFound` when there is none, or no longer, whatever the clock says since."""
    for table, is_there in ((outputs, outputs.c.swept_at.is_(None)), (uploads, true())):
        row = connection.execute(
            select(table.c.key, table.c.expires_at).where(table.c.id == picture_id, table.c.expires_at > now, is_there)
        ).one_or_none()
        if row is not None:
            return Stored(row.key, row.expires_at)
    raise NotFound(NOTHING)


# ---------------------------------------------------------------- outputs


def expired_outputs(connection: Connection, now: float, most: int) -> list[Output]:
    """Outputs past their time whose bytes have not been swept."""
    rows = connection.execute(
        select(outputs).where(outputs.c.expires_at <= now, outputs.c.swept_at.is_(None)).limit(most)
    )
    return [output_of(row) for row in rows]


def mark_swept(connection: Connection, now: float, output_ids: Iterable[str]) -> None:
    connection.execute(update(outputs).where(outputs.c.id.in_(list(output_ids))).values(swept_at=now))


def kept_keys(connection: Connection) -> set[str]:
    """The keys of all inputs and uploads, and of all outputs whose bytes have not been swept."""
    kept = union_all(
        select(inputs.c.key), select(uploads.c.key), select(outputs.c.key).where(outputs.c.swept_at.is_(None))
    )
    return set(connection.execute(kept).scalars())


# ---------------------------------------------------------------- inputs


def spent_inputs(connection: Connection, most: int) -> list[str]:
    """The keys of inputs whose tasks have ended: nobody will read them again."""
    spent = select(inputs.c.key).join(tasks, tasks.c.id == inputs.c.task_id)
    return list(connection.execute(spent.where(tasks.c.state.in_(FINAL)).limit(most)).scalars())


def forget_inputs(connection: Connection, keys: Iterable[str]) -> None:
    """After their bytes have been deleted."""
    connection.execute(delete(inputs).where(inputs.c.key.in_(list(keys))))


# ---------------------------------------------------------------- uploads


def add_upload(
    connection: Connection,
    now: float,
    account_id: str,
    upload_id: str,
    key: str,
    expires_at: float,
    most: int,
    repeatable: Repeatable | None = None,
) -> str:
    """Returns its id; that of the upload that the same request made before, if it did, and then adds none.

    Raises `KeyReused`, or `TooMany` when the account has `most` already.
    """
    lock_account(connection, account_id)
    if repeatable and (before := repeats.uploaded_before(connection, now, account_id, repeatable)):
        return before
    kept = select(func.count(), func.min(uploads.c.expires_at)).where(uploads.c.account_id == account_id)
    number, first_expiry = connection.execute(kept).one()
    if number >= most:
        raise TooMany(
            f"uploads: {number} of this account are kept already, which is all that FLUXSERVE_MOST_UPLOADS allows; "
            "Retry-After says when the first of them is given up",
            max(1, math.ceil(first_expiry - now)),
        )
    if repeatable:
        repeats.note_upload(connection, now, account_id, upload_id, repeatable)
    connection.execute(insert(uploads).values(id=upload_id, account_id=account_id, key=key, expires_at=expires_at))
    return upload_id


def expired_uploads(connection: Connection, now: float, most: int) -> list[str]:
    """The keys of uploads past their time."""
    return list(connection.execute(select(uploads.c.key).where(uploads.c.expires_at <= now).limit(most)).scalars())


def forget_uploads(connection: Connection, keys: Iterable[str]) -> None:
    """After their bytes have been deleted."""
    connection.execute(delete(uploads).where(uploads.c.key.in_(list(keys))))


# ---------------------------------------------------------------- previews


def set_preview(connection: Connection, task_id: str, data: bytes) -> None:
    """In the place of an earlier one."""
    changed = connection.execute(update(previews).where(previews.c.task_id == task_id).values(data=data))
    if not changed.rowcount:
        connection.execute(insert(previews).values(task_id=task_id, data=data))


def preview(connection: Connection, task_id: str) -> bytes | None:
    data: bytes | None = connection.execute(
        select(previews.c.data).where(previews.c.task_id == task_id)
    ).scalar_one_or_none()
    return data


def forget_preview(connection: Connection, task_id: str) -> None:
    connection.execute(_FORGET_PREVIEW, {"of_task": task_id})
