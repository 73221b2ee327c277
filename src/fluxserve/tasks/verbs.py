"""What can be done to a task, each verb the content of one transaction.

Every function takes the connection of an open transaction and the time; none commits. Moves are guarded by the state
and the attempt number they expect, so a worker that comes late changes nothing.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, ScalarSelect, bindparam, delete, func, insert, select, union_all, update

from fluxserve.domain.errors import Abandoned, CancelledByCaller, NotFound, TooMany, shown
from fluxserve.domain.generation import Generation, from_json, images_of, to_json
from fluxserve.domain.task import (
    MOVES,
    Completed,
    Ending,
    Errored,
    GivenBack,
    Move,
    Output,
    State,
    Task,
    WorkerLost,
)
from fluxserve.tasks import ledger
from fluxserve.tasks.schema import IS_OPEN, accounts, inputs, outputs, tasks

OPEN = (State.PENDING, State.PROCESSING)
FINAL = tuple(state for state in State if state.is_final)
RETRY_AFTER_SECONDS = 5


def _count(states: tuple[State, ...]) -> ScalarSelect[int]:
    return (
        select(func.count())
        .where(tasks.c.account_id == bindparam("of_account"), tasks.c.state.in_(states), IS_OPEN)
        .scalar_subquery()
    )


# Built once: building a statement costs more than running it, and these run for every request.
_ROOM = select(accounts.c.max_concurrent - _count(OPEN)).where(accounts.c.id == bindparam("of_account"))
_STAGED = select(_count((State.STAGED,)))
_NEW_TASK = insert(tasks)
_NEW_INPUT = insert(inputs)
_TASK = select(tasks).where(tasks.c.id == bindparam("of_task"), tasks.c.account_id == bindparam("of_account"))


@dataclass(frozen=True, slots=True)
class Held:
    """A task as one attempt holds it: the fence that every later verb of that attempt must pass."""

    task_id: str
    attempt: int


# ---------------------------------------------------------------- the caller's verbs


def submit(
    connection: Connection,
    now: float,
    *,
    task_id: str,
    account_id: str,
    request: dict[str, object],
    generation: Generation,
    price: int,
    most_staged: int,
) -> Task:
    """Accept a task: hold its price and queue it, staged if its account is at its limit.

    Raises `NotEnoughCredits` or `TooMany`; then nothing has changed.
    """
    state = _first_state(connection, account_id, most_staged)
    connection.execute(
        _NEW_TASK,
        {
            "id": task_id,
            "account_id": account_id,
            "request": json.dumps(request),
            "generation": json.dumps(to_json(generation)),
            "state": state,
            "price": price,
            "attempt": 0,
            "losses": 0,
            "created_at": now,
        },
    )
    images = images_of(generation)
    if images:
        connection.execute(_NEW_INPUT, [{"key": key, "task_id": task_id} for key in images])
    ledger.hold(connection, now, account_id, task_id, price)
    return Task(task_id, account_id, request, generation, state, price, attempt=0, losses=0, created_at=now)


def _first_state(connection: Connection, account_id: str, most_staged: int) -> State:
    if _has_room(connection, account_id):
        return State.PENDING
    staged = connection.execute(_STAGED, {"of_account": account_id}).scalar_one()
    if staged >= most_staged:
        raise TooMany(
            f"the queue is full: {staged} tasks of this account are staged already, and at most {most_staged} may be",
            RETRY_AFTER_SECONDS,
        )
    return State.STAGED


def get(connection: Connection, account_id: str, task_id: str) -> Task:
    """Raises `NotFound`, also for another account's task."""
    row = connection.execute(_TASK, {"of_task": task_id, "of_account": account_id}).one_or_none()
    if row is None:
        raise NotFound(f"no task has the id {shown(task_id)}")
    return _task(connection, row)


def cancel(connection: Connection, now: float, account_id: str, task_id: str) -> Task:
    """End a waiting task at once; mark one that is being drawn, to be stopped between steps."""
    task = get(connection, account_id, task_id)
    if task.state in MOVES[Move.CANCEL][0]:
        _end(connection, now, task, Move.CANCEL, CancelledByCaller.code, "cancelled by the caller")
    elif not task.state.is_final:
        connection.execute(update(tasks).where(tasks.c.id == task_id).values(cancel_wished_at=now))
    return get(connection, account_id, task_id)


# ---------------------------------------------------------------- the dispatcher's verbs


def waiting(connection: Connection, most: int) -> list[str]:
    """The ids of the pending tasks, oldest first."""
    oldest = select(tasks.c.id).where(tasks.c.state == State.PENDING).order_by(tasks.c.number).limit(most)
    return list(connection.execute(oldest).scalars())


def claim(connection: Connection, now: float, lease_seconds: float, task_ids: Iterable[str]) -> list[Task]:
    """Take pending tasks for a new attempt each; those that are pending no longer are left out."""
    claimed = []
    for task_id in task_ids:
        changed = _move(
            connection,
            Move.CLAIM,
            tasks.c.id == task_id,
            attempt=tasks.c.attempt + 1,
            lease_until=now + lease_seconds,
            started_at=now,
            step=None,
        )
        if changed:
            claimed.append(_task(connection, _row(connection, task_id)))
    return claimed


def renew(connection: Connection, now: float, lease_seconds: float, held: Iterable[Held]) -> set[Held]:
    """Lengthen the leases of running attempts. Returns those that still hold their task."""
    return {each for each in held if _touch(connection, each, lease_until=now + lease_seconds)}


def progress(connection: Connection, now: float, lease_seconds: float, held: Held, step: int) -> bool:
    """Note that `step` steps are done (0: begun), and renew. False if the attempt holds the task no longer."""
    return _touch(connection, held, lease_until=now + lease_seconds, step=step)


def wished_cancelled(connection: Connection) -> list[Held]:
    """The running attempts whose callers want them stopped."""
    rows = connection.execute(
        select(tasks.c.id, tasks.c.attempt).where(
            tasks.c.state == State.PROCESSING, tasks.c.cancel_wished_at.is_not(None)
        )
    )
    return [Held(row.id, row.attempt) for row in rows]


def finish(connection: Connection, now: float, held: Held, ending: Ending, losses_allowed: int) -> Task | None:
    """Record how an attempt ended: state, outputs and credits together.

    Returns the task as it is now, or None if this attempt held it no longer: then nothing changes.
    """
    row = connection.execute(
        select(tasks).where(
            tasks.c.id == held.task_id, tasks.c.attempt == held.attempt, tasks.c.state == State.PROCESSING
        )
    ).one_or_none()
    if row is None:
        return None
    task = _task(connection, row)
    match ending:
        case Completed(pictures):
            _complete(connection, now, task, pictures)
        case Errored(code, message):
            _end(connection, now, task, Move.FAIL, code, message)
        case WorkerLost(reason) if task.losses + 1 >= losses_allowed:
            message = f"given up after {task.losses + 1} lost workers; the last one: {reason}"
            _end(connection, now, task, Move.ABANDON, Abandoned.code, message, losses=task.losses + 1)
        case WorkerLost():
            _back_to_pending(connection, now, row, Move.LOSE, losses=task.losses + 1)
        case GivenBack():
            _back_to_pending(connection, now, row, Move.RELEASE, losses=task.losses)
    return _task(connection, _row(connection, held.task_id))


def rescue(connection: Connection, now: float, losses_allowed: int, *, everything: bool = False) -> list[Task]:
    """Take back the tasks whose leases have run out, or all that are running (when their server is known to be dead).

    One that had begun counts a loss; one that had not is only given back.
    """
    expired = tasks.c.state == State.PROCESSING
    if not everything:
        expired &= tasks.c.lease_until < now
    rows = connection.execute(select(tasks.c.id, tasks.c.attempt, tasks.c.step).where(expired)).all()
    rescued = []
    for row in rows:
        ending = GivenBack() if row.step is None else WorkerLost("its lease ran out")
        task = finish(connection, now, Held(row.id, row.attempt), ending, losses_allowed)
        if task is not None:
            rescued.append(task)
    return rescued


# ---------------------------------------------------------------- outputs


def output(connection: Connection, now: float, output_id: str) -> Output:
    """Raises `NotFound` when there is none, or no longer."""
    row = connection.execute(select(outputs).where(outputs.c.id == output_id, outputs.c.expires_at > now)).one_or_none()
    if row is None:
        raise NotFound("no picture has this address, or it has expired")
    return _output(row)


def expired_outputs(connection: Connection, now: float, most: int) -> list[Output]:
    """Outputs past their time whose bytes have not been swept."""
    rows = connection.execute(
        select(outputs).where(outputs.c.expires_at <= now, outputs.c.swept_at.is_(None)).limit(most)
    )
    return [_output(row) for row in rows]


def kept_keys(connection: Connection) -> set[str]:
    """The keys of all inputs, and of all outputs whose bytes have not been swept."""
    kept = union_all(select(inputs.c.key), select(outputs.c.key).where(outputs.c.swept_at.is_(None)))
    return set(connection.execute(kept).scalars())


def mark_swept(connection: Connection, now: float, output_ids: Iterable[str]) -> None:
    connection.execute(update(outputs).where(outputs.c.id.in_(list(output_ids))).values(swept_at=now))


# ---------------------------------------------------------------- inputs


def spent_inputs(connection: Connection, most: int) -> list[str]:
    """The keys of inputs whose tasks have ended: nobody will read them again."""
    spent = select(inputs.c.key).join(tasks, tasks.c.id == inputs.c.task_id)
    return list(connection.execute(spent.where(tasks.c.state.in_(FINAL)).limit(most)).scalars())


def forget_inputs(connection: Connection, keys: Iterable[str]) -> None:
    """After their bytes have been deleted."""
    connection.execute(delete(inputs).where(inputs.c.key.in_(list(keys))))


# ---------------------------------------------------------------- how moves are written


def _complete(connection: Connection, now: float, task: Task, pictures: tuple[Output, ...]) -> None:
    connection.execute(
        insert(outputs),
        [
            {
                "id": picture.id,
                "task_id": task.id,
                "position": position,
                "key": picture.key,
                "content_type": picture.content_type,
                "size": picture.size,
                "width": picture.width,
                "height": picture.height,
                "seed": picture.seed,
                "expires_at": picture.expires_at,
            }
            for position, picture in enumerate(pictures)
        ],
    )
    _move(connection, Move.COMPLETE, tasks.c.id == task.id, ended_at=now, lease_until=None)
    ledger.settle(connection, now, task.account_id, task.id, task.price)
    _promote(connection, task.account_id)


def _end(connection: Connection, now: float, task: Task, move: Move, code: str, message: str, **values: Any) -> None:
    _move(
        connection,
        move,
        tasks.c.id == task.id,
        ended_at=now,
        lease_until=None,
        error_code=code,
        error_message=message,
        **values,
    )
    ledger.release(connection, now, task.account_id, task.id, task.price)
    _promote(connection, task.account_id)


def _back_to_pending(connection: Connection, now: float, row: Row[Any], move: Move, *, losses: int) -> None:
    """To try again; or, if its caller wanted it stopped meanwhile, to end as they wished."""
    _move(connection, move, tasks.c.id == row.id, lease_until=None, started_at=None, step=None, losses=losses)
    if row.cancel_wished_at is not None:
        cancel(connection, now, row.account_id, row.id)


def _promote(connection: Connection, account_id: str) -> None:
    """A place has become free: the account's oldest staged task takes it."""
    while _has_room(connection, account_id):
        oldest = (
            select(func.min(tasks.c.number))
            .where(tasks.c.account_id == account_id, tasks.c.state == State.STAGED, IS_OPEN)
            .scalar_subquery()
        )
        if not _move(connection, Move.PROMOTE, tasks.c.number == oldest):
            return


def _has_room(connection: Connection, account_id: str) -> bool:
    room: int = connection.execute(_ROOM, {"of_account": account_id}).scalar_one()
    return room > 0


def _move(connection: Connection, move: Move, where: Any, **values: Any) -> bool:
    """One row of the table of moves as one guarded update. False if no task was in a state it starts from."""
    befores, after, _ = MOVES[move]
    changed = connection.execute(update(tasks).where(where, tasks.c.state.in_(befores)).values(state=after, **values))
    return bool(changed.rowcount)


def _touch(connection: Connection, held: Held, **values: Any) -> bool:
    changed = connection.execute(
        update(tasks)
        .where(tasks.c.id == held.task_id, tasks.c.attempt == held.attempt, tasks.c.state == State.PROCESSING)
        .values(**values)
    )
    return bool(changed.rowcount)


def _row(connection: Connection, task_id: str) -> Row[Any]:
    return connection.execute(select(tasks).where(tasks.c.id == task_id)).one()


def _task(connection: Connection, row: Row[Any]) -> Task:
    pictures: tuple[Output, ...] = ()
    if row.state == State.COMPLETED:
        found = connection.execute(select(outputs).where(outputs.c.task_id == row.id).order_by(outputs.c.position))
        pictures = tuple(_output(each) for each in found)
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
        started_at=row.started_at,
        ended_at=row.ended_at,
        step=row.step,
        error_code=row.error_code,
        error_message=row.error_message,
        outputs=pictures,
    )


def _output(row: Row[Any]) -> Output:
    return Output(row.id, row.key, row.content_type, row.size, row.width, row.height, row.seed, row.expires_at)
