"""What can be done to a task, each verb the content of one transaction.

Every function takes the connection of an open transaction and the time; none commits. Moves are guarded by the state
and the attempt number they expect, so a worker that comes late changes nothing.
"""

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    ScalarSelect,
    Select,
    Update,
    bindparam,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.sql.dml import ReturningUpdate

from fluxserve.domain.catalog import member_of
from fluxserve.domain.credits import work
from fluxserve.domain.errors import Abandoned, CancelledByCaller, Expired, NotFound, TooMany, shown
from fluxserve.domain.generation import from_json, images_of, to_json
from fluxserve.domain.task import (
    MOVES,
    PUBLIC,
    Completed,
    Ending,
    Errored,
    GivenBack,
    Move,
    Output,
    State,
    Submission,
    Task,
    Waiting,
    WorkerLost,
)
from fluxserve.tasks import ledger, outbox, pictures, repeats
from fluxserve.tasks.ledger import Paid
from fluxserve.tasks.lists import Sought, open_tasks
from fluxserve.tasks.rows import can_be_id, lock_account, row_of, task_of
from fluxserve.tasks.schema import IS_OPEN, accounts, inputs, outputs, tasks

OPEN = (State.PENDING, State.PROCESSING)
RETRY_AFTER_SECONDS = 5
CANCELLED = "cancelled by the caller"


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
_NEW_OUTPUTS = insert(outputs)
_TASK = select(tasks).where(tasks.c.id == bindparam("of_task"), tasks.c.account_id == bindparam("of_account"))
_LAST_TURN = select(func.coalesce(func.max(tasks.c.turn), 0))
_STANDING = select(accounts.c.served, (accounts.c.max_concurrent - _count((State.PROCESSING,))).label("free")).where(
    accounts.c.id == bindparam("of_account")
)
_GIVEN = update(accounts).where(accounts.c.id == bindparam("of_account")).values(served=bindparam("given"))
_RANKED = (
    select(
        *(tasks.c.id, tasks.c.account_id, tasks.c.pool, tasks.c.number, tasks.c.work),
        func.row_number().over(partition_by=(tasks.c.account_id, tasks.c.pool), order_by=tasks.c.number).label("rank"),
        func.row_number().over(partition_by=tasks.c.account_id, order_by=tasks.c.number).label("place"),
    )
    .where(tasks.c.state == State.PENDING)
    .subquery()
)
_RUNNING = (
    select(tasks.c.account_id, func.count().label("number"))
    .where(tasks.c.state == State.PROCESSING)
    .group_by(tasks.c.account_id)
    .subquery()
)
_WAITING = (
    select(_RANKED, accounts.c.served, tasks.c.generation)
    .join(accounts, accounts.c.id == _RANKED.c.account_id)
    .join(tasks, tasks.c.number == _RANKED.c.number)  # for the few: what ranks all of them is not to carry prompts
    .outerjoin(_RUNNING, _RUNNING.c.account_id == accounts.c.id)
    .where(
        _RANKED.c.rank <= bindparam("most"),
        _RANKED.c.place <= accounts.c.max_concurrent - func.coalesce(_RUNNING.c.number, 0),
    )
)


@dataclass(frozen=True, slots=True)
class Held:
    """A task as one attempt holds it: the fence that every later verb of that attempt must pass."""

    task_id: str
    attempt: int


# ---------------------------------------------------------------- the caller's verbs


def submit(
    connection: Connection,
    now: float,
    asked: Submission,
    *,
    task_id: str,
    price: int,
    deadline: float,
    most_staged: int,
) -> Task:
    """Accept a task: hold its price and queue it, staged if its account is at its limit.

    A request that came before makes no second one: its task is returned as it was then. Raises `KeyReused`,
    `NotEnoughCredits` or `TooMany`; then nothing has changed.
    """
    account_id, generation = asked.account_id, asked.generation
    lock_account(connection, account_id)
    if asked.repeatable and (before := repeats.made_before(connection, now, account_id, asked.repeatable)):
        return before
    task = Task(
        id=task_id,
        account_id=account_id,
        request=asked.request,
        generation=generation,
        state=_first_state(connection, account_id, most_staged),
        price=0 if asked.is_private else price,
        attempt=0,
        losses=0,
        created_at=now,
        pool=account_id if asked.is_private else PUBLIC,
        api_key_id=asked.api_key_id,
        deadline=deadline,
        webhook=asked.webhook,
    )
    connection.execute(
        _NEW_TASK,
        {
            "id": task.id,
            "account_id": account_id,
            "request": json.dumps(task.request),
            "generation": json.dumps(to_json(generation)),
            "state": task.state,
            "price": task.price,
            "attempt": 0,
            "losses": 0,
            "created_at": now,
            "api_key_id": task.api_key_id,
            "model": generation.model,
            "pool": task.pool,
            "work": work(generation),
            "deadline": deadline,
            "webhook_url": task.webhook and task.webhook.url,
            "webhook_secret": task.webhook and task.webhook.secret,
        },
    )
    images = images_of(generation)
    if images:
        connection.execute(_NEW_INPUT, [{"key": key, "task_id": task_id} for key in images])
    ledger.hold(connection, now, account_id, Paid(task_id), task.price)
    if asked.repeatable:
        repeats.note_task(connection, now, task, asked.repeatable)
    return task


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
    ids = {"of_task": task_id, "of_account": account_id}
    row = connection.execute(_TASK, ids).one_or_none() if can_be_id(task_id) else None
    if row is None:
        raise NotFound(f"no task has the id {shown(task_id)}")
    return task_of(connection, row)


def cancel(connection: Connection, now: float, account_id: str, task_id: str) -> Task:
    """End a waiting task at once; mark one that is being drawn, to be stopped between steps. Raises `NotFound`."""
    get(connection, account_id, task_id)
    _stop(connection, now, task_id, Move.CANCEL, CancelledByCaller.code, CANCELLED)
    return get(connection, account_id, task_id)


def cancel_all(connection: Connection, now: float, account_id: str, sought: Sought) -> list[Task]:
    """The same for all of an account's tasks that are sought and have not ended."""
    return [cancel(connection, now, account_id, task.id) for task in open_tasks(connection, account_id, sought)]


# ---------------------------------------------------------------- the dispatcher's verbs


def waiting(connection: Connection, most: int) -> list[Waiting]:
    """The oldest pending tasks of each account and pool, at most so many of each, in no order.

    Where a limit was lowered, more may be pending than may run: those are left out that `claim` would leave out.
    """
    rows = connection.execute(_WAITING, {"most": most}).all()
    last = connection.execute(_LAST_TURN).scalar_one() if rows else 0
    return [
        Waiting(
            task_id=row.id,
            account_id=row.account_id,
            pool=row.pool,
            number=row.number,
            work=row.work,
            turn=max(row.served, last),
            member=member_of(from_json(json.loads(row.generation))),
        )
        for row in rows
    ]


def claim(
    connection: Connection,
    now: float,
    lease_seconds: float,
    task_ids: Iterable[str],
    early: Collection[str] = (),
) -> list[Task]:
    """Take pending tasks for a new attempt each; those that are pending no longer, or more than may run, are left out.

    Their accounts' turns move on by what each is to do (start-time fair queueing, Goyal et al., 1996). What an
    account's own workers draw takes nothing from anybody, and costs no turn. `early` are those of accounts that stand
    higher than another that waits: they raise nobody else, for that one, raised by each of them, would never be next.
    """
    claimed = []
    for task_id in task_ids:
        row = connection.execute(_pending(), {"of_task": task_id}).one_or_none()
        if row is None:
            continue
        lock_account(connection, row.account_id)
        standing = connection.execute(_STANDING, {"of_account": row.account_id}).one()
        if standing.free <= 0:  # its account's limit was lowered when it was pending already
            continue
        turn = _turn(connection, standing.served, row.pool)
        moved = _move(
            connection,
            Move.CLAIM,
            task_id,
            attempt=row.attempt + 1,
            lease_until=now + lease_seconds,
            started_at=now,
            step=None,
            turn=row.turn if task_id in early else turn,
        )
        if turn is not None:
            connection.execute(_GIVEN, {"of_account": row.account_id, "given": turn + row.work})
        claimed.append(task_of(connection, moved))
    return claimed


def _turn(connection: Connection, served: int, pool: str) -> int | None:
    """Where its account stands: where it had come to, or where the others are if it was idle meanwhile.

    None for a private task: it has no others to wait for.
    """
    if pool != PUBLIC:
        return None
    last: int = connection.execute(_LAST_TURN).scalar_one()
    return max(served, last)


def renew(connection: Connection, now: float, lease_seconds: float, held: Iterable[Held]) -> set[Held]:
    """Lengthen the leases of running attempts. Returns those that still hold their task."""
    return {each for each in held if _touch(connection, each, lease_until=now + lease_seconds)}


def progress(
    connection: Connection,
    now: float,
    lease_seconds: float,
    held: Held,
    step: int,
    steps: int | None = None,
    preview: bytes = b"",
) -> bool:
    """Note that `step` of `steps` are done (0: begun) and how the picture looks, and renew.

    False if the attempt holds the task no longer.
    """
    is_held = _touch(connection, held, is_seen=True, lease_until=now + lease_seconds, step=step, steps=steps)
    if is_held and preview:
        pictures.set_preview(connection, held.task_id, preview)
    return is_held


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
    row = connection.execute(_holding(), _as_parameters(held)).one_or_none()
    if row is None:
        return None
    task = task_of(connection, row)
    pictures.forget_preview(connection, held.task_id)
    match ending:
        case Completed(finished):
            return _complete(connection, now, task, finished)
        case Errored(CancelledByCaller.code) if row.cancel_code == Expired.code:
            _end(connection, now, task, Move.FAIL, Expired.code, _expired(task))
        case Errored(code, message):
            _end(connection, now, task, Move.FAIL, code, message)
        case WorkerLost(reason) if task.losses + 1 >= losses_allowed:
            message = f"given up after {task.losses + 1} lost workers; the last one: {reason}"
            _end(connection, now, task, Move.ABANDON, Abandoned.code, message, losses=task.losses + 1)
        case WorkerLost():
            _back_to_pending(connection, now, row, Move.LOSE, losses=task.losses + 1)
        case GivenBack():
            _back_to_pending(connection, now, row, Move.RELEASE, losses=task.losses)
    return task_of(connection, row_of(connection, held.task_id))


def expire(connection: Connection, now: float, most: int) -> list[Task]:
    """End the waiting tasks whose deadlines have passed, and mark those that are being drawn to be stopped."""
    late = connection.execute(
        select(tasks.c.id)
        .where(tasks.c.deadline <= now, IS_OPEN, tasks.c.cancel_wished_at.is_(None))
        .order_by(tasks.c.deadline)
        .limit(most)
    ).scalars()
    ended = []
    for task_id in late.all():
        task = task_of(connection, row_of(connection, task_id))
        _stop(connection, now, task_id, Move.EXPIRE, Expired.code, _expired(task))
        ended.append(task_of(connection, row_of(connection, task_id)))
    return ended


def shorten_leases(connection: Connection, now: float, lease_seconds: float) -> None:
    """One that has more than twice its time left was given before the clock was set back. If its server has died since,
    it would hold its task for as long as the clock was set back by.
    """
    connection.execute(
        update(tasks)
        .where(tasks.c.state == State.PROCESSING, tasks.c.lease_until > now + 2 * lease_seconds)
        .values(lease_until=now + lease_seconds)
    )


def rescue(connection: Connection, now: float, losses_allowed: int, *, everything: bool = False) -> list[Task]:
    """Take back the tasks whose leases have run out, or all that are running (when their server is known to be dead).

    One that had begun counts a loss; one that had not is only given back.
    """
    expired = tasks.c.state == State.PROCESSING
    if not everything:
        expired &= tasks.c.lease_until < now
    # One that is locked is being renewed, ended or rescued at this moment.
    rows = connection.execute(
        select(tasks.c.id, tasks.c.attempt, tasks.c.step).where(expired).with_for_update(skip_locked=True)
    ).all()
    rescued = []
    for row in rows:
        ending = GivenBack() if row.step is None else WorkerLost("its lease ran out")
        task = finish(connection, now, Held(row.id, row.attempt), ending, losses_allowed)
        if task is not None:
            rescued.append(task)
    return rescued


# ---------------------------------------------------------------- how moves are written


def _stop(connection: Connection, now: float, task_id: str, move: Move, code: str, message: str) -> None:
    """End a waiting task by `move`; mark one that runs. One that has ended stays as it is."""
    row = connection.execute(select(tasks).where(tasks.c.id == task_id).with_for_update()).one_or_none()
    if row is None or State(row.state).is_final:
        return
    if row.state in MOVES[move][0]:
        _end(connection, now, task_of(connection, row), move, code, message)
    else:
        connection.execute(update(tasks).where(tasks.c.id == task_id).values(cancel_wished_at=now, cancel_code=code))


def _complete(connection: Connection, now: float, task: Task, finished: tuple[Output, ...]) -> Task:
    connection.execute(
        _NEW_OUTPUTS,
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
            for position, picture in enumerate(finished)
        ],
    )
    moved = _move(connection, Move.COMPLETE, task.id, ended_at=now, lease_until=None)
    ledger.settle(connection, now, task.account_id, Paid(task.id), task.price, task.price)
    outbox.post(connection, now, task)
    promote(connection, task.account_id)
    return task_of(connection, moved)


def _end(connection: Connection, now: float, task: Task, move: Move, code: str, message: str, **values: Any) -> None:
    _move(
        connection,
        move,
        task.id,
        ended_at=now,
        lease_until=None,
        error_code=code,
        error_message=message,
        **values,
    )
    ledger.release(connection, now, task.account_id, Paid(task.id), task.price)
    outbox.post(connection, now, task)
    promote(connection, task.account_id)


def _back_to_pending(connection: Connection, now: float, row: Row[Any], move: Move, *, losses: int) -> None:
    """To try again; or, if it was to be stopped meanwhile, to end so."""
    begun_anew = {"started_at": None, "step": None, "steps": None}
    _move(connection, move, row.id, lease_until=None, losses=losses, **begun_anew)
    if row.cancel_code == Expired.code:
        _stop(connection, now, row.id, Move.EXPIRE, Expired.code, _expired(task_of(connection, row)))
    elif row.cancel_wished_at is not None:
        _stop(connection, now, row.id, Move.CANCEL, CancelledByCaller.code, CANCELLED)


def _expired(task: Task) -> str:
    seconds = (task.deadline or task.created_at) - task.created_at
    return f"its deadline passed: it had not ended {seconds:g} s after it was created"


def promote(connection: Connection, account_id: str) -> None:
    """As many of the account's oldest staged tasks as there is room for become pending."""
    staged = connection.execute(_staged(), {"of_account": account_id}).scalars()
    for task_id in staged.all():
        if not _has_room(connection, account_id):
            return
        _move(connection, Move.PROMOTE, task_id)


def _has_room(connection: Connection, account_id: str) -> bool:
    room: int = connection.execute(_ROOM, {"of_account": account_id}).scalar_one()
    return room > 0


def _move(connection: Connection, move: Move, task_id: str, **values: Any) -> Row[Any]:
    """One row of the table of moves as one guarded update. Returns the task's row as it is now."""
    parameters = {"of_task": task_id} | {f"new_{name}": value for name, value in values.items()}
    return connection.execute(_moving(move, *values), parameters).one()


def _touch(connection: Connection, held: Held, *, is_seen: bool = False, **values: Any) -> bool:
    """False if the attempt holds its task no longer. The task's version grows if callers can see the change."""
    parameters = _as_parameters(held) | {f"new_{name}": value for name, value in values.items()}
    return bool(connection.execute(_touching(is_seen, *values), parameters).rowcount)


# ---------------------------------------------------------------- statements that are built at their first use


@cache
def _moving(move: Move, *columns: str) -> ReturningUpdate[Any]:
    befores, after, _ = MOVES[move]
    return (
        update(tasks)
        .where(tasks.c.id == bindparam("of_task"), or_(*(tasks.c.state == before for before in befores)))
        .values(state=after, version=tasks.c.version + 1, **_new(columns))
        .returning(tasks)
    )


@cache
def _touching(is_seen: bool, *columns: str) -> Update:
    grown = {"version": tasks.c.version + 1} if is_seen else {}
    return update(tasks).where(_is_held()).values(**grown, **_new(columns))


@cache
def _holding() -> Select[Any]:
    """The task that an attempt holds; no other server changes it until this transaction ends."""
    return select(tasks).where(_is_held()).with_for_update()


@cache
def _pending() -> Select[Any]:
    """The same of a task that waits to be claimed."""
    return select(tasks).where(tasks.c.id == bindparam("of_task"), tasks.c.state == State.PENDING).with_for_update()


@cache
def _staged() -> Select[Any]:
    """An account's staged tasks, oldest first."""
    return (
        select(tasks.c.id)
        .where(tasks.c.account_id == bindparam("of_account"), tasks.c.state == State.STAGED, IS_OPEN)
        .order_by(tasks.c.number)
    )


def _is_held() -> ColumnElement[bool]:
    return (
        (tasks.c.id == bindparam("of_task"))
        & (tasks.c.attempt == bindparam("of_attempt"))
        & (tasks.c.state == State.PROCESSING)
    )


def _as_parameters(held: Held) -> dict[str, Any]:
    return {"of_task": held.task_id, "of_attempt": held.attempt}


def _new(columns: tuple[str, ...]) -> dict[str, Any]:
    return {name: bindparam(f"new_{name}") for name in columns}
