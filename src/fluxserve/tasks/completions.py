"""Completions: what each may cost is held before anything is asked of an upstream, and its hold ends once.

A completion belongs to the server that relays it, which renews its lease meanwhile. What a dead server was relaying
fails when its lease has run out, or at the next start where there is but one server: its hold is released.
"""

import uuid
from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, insert, or_, select, update

from fluxserve.domain.completion import Completion, CompletionEnding, NewCompletion, Unused, Usage, Used
from fluxserve.domain.errors import Abandoned, InFlight, NotFound, shown
from fluxserve.domain.task import Repeatable, State
from fluxserve.tasks import ledger, repeats
from fluxserve.tasks.database import Database
from fluxserve.tasks.ledger import Paid
from fluxserve.tasks.repeats import KEPT_SECONDS
from fluxserve.tasks.rows import can_be_id, lock_account
from fluxserve.tasks.schema import answers, completions
from fluxserve.tasks.signals import Clock

RETRY_AFTER_SECONDS = 1
MOST_RESCUED = 500  # in one pass

# Built once: building a statement costs more than running it, and these run for every completion.
_NEW = insert(completions)
_NEW_ANSWER = insert(answers)
_ONE = (
    select(completions, answers.c.data)
    .outerjoin(answers, (answers.c.completion_id == completions.c.id) & (answers.c.expires_at > bindparam("now")))
    .where(completions.c.id == bindparam("of_completion"), completions.c.account_id == bindparam("of_account"))
)
_UNDER_WAY = (
    select(completions.c.id, completions.c.account_id, completions.c.held)
    .where(completions.c.id == bindparam("of_completion"), completions.c.state == State.PROCESSING)
    .with_for_update()
)
_ENDED = (
    update(completions)
    .where(completions.c.id == bindparam("of_completion"), completions.c.state == State.PROCESSING)
    .values(
        lease_until=None,
        **{
            name: bindparam(name)
            for name in (
                *("state", "price", "prompt_tokens", "completion_tokens"),
                *("ended_at", "error_code", "error_message"),
            )
        },
    )
)


class Completions:
    """Each method is one transaction. `check_room` raises `NoRoom` when nothing new may be accepted."""

    def __init__(
        self,
        database: Database,
        *,
        lease_seconds: float = 30.0,
        clock: Clock | None = None,
        check_room: Callable[[], None] = lambda: None,
    ) -> None:
        self._database = database
        self._lease_seconds = lease_seconds
        self._clock = clock or database.now
        self._check_room = check_room

    async def hold(self, asked: NewCompletion) -> Completion:
        """Hold what it may cost at most. A request that came before and has its answer holds nothing: that completion
        is returned. Raises `InFlight` while it has none yet, `KeyReused` or `NotEnoughCredits`.

        It waits for no disk: one that a power loss undoes has cost nothing, as one that it interrupts does.
        """
        self._check_room()
        completion_id = str(uuid.uuid4())
        return await self._database.mark(
            lambda connection: _hold(connection, self._clock(connection), asked, completion_id, self._lease_seconds)
        )

    async def made_before(self, account_id: str, repeatable: Repeatable) -> Completion | None:
        """The completion that this request made when it came first. Raises `InFlight` or `KeyReused`."""
        return await self._database.glance(
            lambda connection: _made_before(connection, self._clock(connection), account_id, repeatable)
        )

    async def finish(self, completion_id: str, ending: CompletionEnding) -> bool:
        """End it and its hold. False if it had ended before: then nothing changes."""
        return await self._database.write(
            lambda connection: _finish(connection, self._clock(connection), completion_id, ending)
        )

    async def get(self, account_id: str, completion_id: str) -> Completion:
        """Raises `NotFound`, also for another account's."""
        return await self._database.glance(
            lambda connection: _get(connection, self._clock(connection), account_id, completion_id)
        )

    async def renew(self, completion_ids: Iterable[str]) -> None:
        ids = list(completion_ids)
        await self._database.mark(
            lambda connection: _renew(connection, self._clock(connection) + self._lease_seconds, ids)
        )

    async def rescue(self, *, everything: bool = False) -> list[Completion]:
        """End those whose leases have run out, or all that are under way (when their server is known to be dead)."""
        return await self._database.write(
            lambda connection: _rescue(connection, self._clock(connection), self._lease_seconds, everything=everything)
        )

    async def forget_old_answers(self) -> None:
        await self._database.write(
            lambda connection: connection.execute(
                delete(answers).where(answers.c.expires_at <= self._clock(connection))
            )
        )


# ---------------------------------------------------------------- the verbs


def _hold(
    connection: Connection, now: float, asked: NewCompletion, completion_id: str, lease_seconds: float
) -> Completion:
    lock_account(connection, asked.account_id)
    if asked.repeatable and (before := _made_before(connection, now, asked.account_id, asked.repeatable)):
        return before
    completion = Completion(
        id=completion_id,
        account_id=asked.account_id,
        model=asked.model,
        state=State.PROCESSING,
        held=asked.price,
        created_at=now,
        api_key_id=asked.api_key_id,
    )
    connection.execute(
        _NEW,
        {
            "id": completion.id,
            "account_id": completion.account_id,
            "api_key_id": completion.api_key_id,
            "model": completion.model,
            "state": completion.state,
            "held": completion.held,
            "lease_until": now + lease_seconds,
            "created_at": now,
        },
    )
    ledger.hold(connection, now, completion.account_id, Paid(completion_id=completion.id), completion.held)
    if asked.repeatable:
        repeats.note_completion(connection, now, completion, asked.repeatable)
    return completion


def _made_before(connection: Connection, now: float, account_id: str, repeatable: Repeatable) -> Completion | None:
    completion_id = repeats.completion_before(connection, now, account_id, repeatable)
    if completion_id is None:
        return None
    completion = _get(connection, now, account_id, completion_id)
    if completion.state is State.PROCESSING:
        raise InFlight(
            "Idempotency-Key: a request with this key is being answered; ask again soon", RETRY_AFTER_SECONDS
        )
    return completion


def _finish(connection: Connection, now: float, completion_id: str, ending: CompletionEnding) -> bool:
    row = connection.execute(_UNDER_WAY, {"of_completion": completion_id}).one_or_none()
    if row is None:
        return False
    paid = Paid(completion_id=completion_id)
    values: dict[str, Any] = {
        "price": None,
        "prompt_tokens": None,
        "completion_tokens": None,
        "error_code": ending.code,
        "error_message": ending.message,
    }
    match ending:
        case Used(usage, price, answer):
            charged = min(price, row.held)
            values |= {"price": charged, "prompt_tokens": usage.prompt, "completion_tokens": usage.completion}
            _end(connection, now, completion_id, State.COMPLETED, values)
            ledger.settle(connection, now, row.account_id, paid, row.held, charged)
            if answer is not None:
                kept = {"completion_id": completion_id, "data": answer, "expires_at": now + KEPT_SECONDS}
                connection.execute(_NEW_ANSWER, kept)
        case Unused():
            _end(connection, now, completion_id, State.FAILED, values)
            ledger.release(connection, now, row.account_id, paid, row.held)
            repeats.forget_completion(connection, completion_id)  # so that the same request may try again
    return True


def _end(connection: Connection, now: float, completion_id: str, state: State, values: dict[str, Any]) -> None:
    connection.execute(_ENDED, {"of_completion": completion_id, "state": state, "ended_at": now, **values})


def _get(connection: Connection, now: float, account_id: str, completion_id: str) -> Completion:
    ids = {"of_completion": completion_id, "of_account": account_id, "now": now}
    row = connection.execute(_ONE, ids).one_or_none() if can_be_id(completion_id) else None
    if row is None:
        raise NotFound(f"no task has the id {shown(completion_id)}")
    return _completion(row)


def _renew(connection: Connection, until: float, ids: list[str]) -> None:
    under_way = completions.c.id.in_(ids) & (completions.c.state == State.PROCESSING)
    connection.execute(update(completions).where(under_way).values(lease_until=until))


def _rescue(connection: Connection, now: float, lease_seconds: float, *, everything: bool) -> list[Completion]:
    lease = completions.c.lease_until
    # One with more than twice its time left was given it before the clock was set back.
    left = lease.is_not(None) if everything else or_(lease < now, lease > now + 2 * lease_seconds)
    # One that is locked is being renewed, ended or rescued at this moment.
    rows = connection.execute(
        select(completions.c.id, completions.c.account_id)
        .where(left)
        .order_by(completions.c.number)
        .limit(None if everything else MOST_RESCUED)
        .with_for_update(skip_locked=True)
    ).all()
    lost = Unused(Abandoned.code, "the server that relayed it was lost; it cost nothing")
    for row in rows:
        _finish(connection, now, row.id, lost)
    return [_get(connection, now, row.account_id, row.id) for row in rows]


def _completion(row: Row[Any]) -> Completion:
    return Completion(
        id=row.id,
        account_id=row.account_id,
        model=row.model,
        state=State(row.state),
        held=row.held,
        created_at=row.created_at,
        api_key_id=row.api_key_id,
        price=row.price,
        usage=None if row.prompt_tokens is None else Usage(row.prompt_tokens, row.completion_tokens),
        ended_at=row.ended_at,
        error_code=row.error_code,
        error_message=row.error_message,
        answer=row.data,
    )
