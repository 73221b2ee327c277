"""The outbox: webhooks to be sent, and every attempt to send one.

A row is written in the transaction that ends its task, so that none is forgotten; it says when it is to be sent next.
Whoever takes it moves that time on by a lease, so that no other sends it meanwhile, and a sender that dies leaves
nothing behind. An attempt that is not written down is made again: a receiver hears of an ending at least once.
"""

import math
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, Select, bindparam, func, insert, select, update

from fluxserve.domain.errors import NotFound, shown
from fluxserve.domain.task import Task
from fluxserve.tasks.database import Database
from fluxserve.tasks.rows import can_be_id, row_of, task_of
from fluxserve.tasks.schema import deliveries, tasks, webhooks
from fluxserve.tasks.signals import POST, Clock, Signals

MOST_TOGETHER = 64  # letters taken in one transaction: callers' own wait behind it


@dataclass(frozen=True, slots=True)
class Letter:
    """A webhook that is to be sent now, for the `attempt`th time. `origin` is its receiver's scheme, host and port."""

    id: str
    task_id: str
    url: str
    secret: str
    origin: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """How one went: `status` is HTTP's, None where there was no answer, and then `error` says why. Times in seconds."""

    at: float
    seconds: float
    status: int | None
    error: str | None


@dataclass(frozen=True, slots=True)
class DeliveryLog:
    """Of one task's webhook. `next_at` is None once it is delivered or given up."""

    id: str
    url: str
    created_at: float
    next_at: float | None
    delivered_at: float | None
    attempts: tuple[Attempt, ...]


class Outbox:
    """Each method is one transaction. `signals.post` is set when there may be something to send."""

    def __init__(self, database: Database, signals: Signals, clock: Clock | None = None) -> None:
        self.signals = signals
        self._database = database
        self._clock = clock or database.now

    async def take(
        self, lease_seconds: float, busy: Mapping[str, int], *, most_of_one: int, most: int
    ) -> tuple[list[Letter], float | None]:
        """Some letters that are due, for the caller alone until the lease ends.

        `most` may be under way at once, and `busy` says how many are to each origin. One origin gets at most
        `most_of_one`, and the fewer the fewer places are free: receivers that hang, even a hundred, leave places for
        the others. Where few are under way is seen to first.

        If nothing is due that there is a place for, the second of the pair is when something will be, in seconds.
        """

        def look(connection: Connection) -> tuple[float, dict[str, float]]:
            return self._clock(connection), first_due(connection)

        def verb(connection: Connection) -> list[Letter]:
            return take(connection, self._clock(connection), lease_seconds, shares)

        now, due_at = await self._database.read(look)
        shares = share_out(due_at, now, busy, most_of_one=most_of_one, most=most)
        letters = await self._database.write(verb) if shares else []
        return letters, min((at - now for at in due_at.values() if at > now), default=None)

    async def task(self, letter: Letter) -> Task:
        """What it tells of: a task that has ended, and so does not change any more."""
        return await self._database.read(lambda connection: task_of(connection, row_of(connection, letter.task_id)))

    async def record(
        self, letter: Letter, seconds: float, status: int | None, error: str | None, *, is_delivered: bool,
        next_in: float | None,
    ) -> None:  # fmt: skip
        """Write down how an attempt went, and in how many seconds the next one is: None ends it."""

        def verb(connection: Connection) -> None:
            now = self._clock(connection)
            attempt = Attempt(now, seconds, status, error)
            next_at = None if next_in is None else now + next_in
            record(connection, letter, attempt, next_at=next_at, is_delivered=is_delivered)

        await self._database.write(verb)

    async def log(self, account_id: str | None, task_id: str) -> DeliveryLog:
        """Of a task of this account, of any if None. Raises `NotFound`, also where there is no webhook yet."""
        return await self._database.read(lambda connection: delivery_log(connection, account_id, task_id))

    async def resend(self, account_id: str | None, task_id: str) -> DeliveryLog:
        """Send it at once, whether or not it had been delivered or given up. Raises `NotFound`."""
        log = await self._database.write(
            lambda connection: self.signals.announcing(
                connection, (POST,), resend(connection, self._clock(connection), account_id, task_id)
            )
        )
        self.signals.give(POST)
        return log


def _each_origin() -> Select[tuple[str, float]]:
    """By jumps in the index from one to the next: however many letters wait, it costs what there are origins."""
    first = select(func.min(webhooks.c.origin).label("origin")).where(webhooks.c.next_at.is_not(None))
    origins = first.cte("origins", recursive=True)
    following = select(func.min(webhooks.c.origin)).where(
        webhooks.c.origin > origins.c.origin, webhooks.c.next_at.is_not(None)
    )
    origins = origins.union_all(select(following.scalar_subquery()).where(origins.c.origin.is_not(None)))
    first_due = select(func.min(webhooks.c.next_at)).where(
        webhooks.c.origin == origins.c.origin, webhooks.c.next_at.is_not(None)
    )
    return select(origins.c.origin, first_due.scalar_subquery().label("first_due")).where(origins.c.origin.is_not(None))


# Built once: building a statement costs more than running it, and these run for every letter.
_ORIGINS = _each_origin()
_DUE = (
    select(webhooks)
    .where(webhooks.c.origin == bindparam("of_origin"), webhooks.c.next_at <= bindparam("now"))
    .order_by(webhooks.c.next_at)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)


# ---------------------------------------------------------------- the verbs


def post(connection: Connection, now: float, task: Task) -> None:
    """In the transaction that ends the task: its caller is to hear of it."""
    if task.webhook is None:
        return
    connection.execute(
        insert(webhooks).values(
            id=f"msg_{uuid.uuid4().hex}",
            task_id=task.id,
            url=task.webhook.url,
            secret=task.webhook.secret,
            origin=origin_of(task.webhook.url),
            created_at=now,
            attempts=0,
            next_at=now,
        )
    )


def first_due(connection: Connection) -> dict[str, float]:
    """The origins that anything is to be sent to, and when the first of it is."""
    return {row.origin: row.first_due for row in connection.execute(_ORIGINS)}


def share_out(
    due_at: Mapping[str, float], now: float, busy: Mapping[str, int], *, most_of_one: int, most: int
) -> dict[str, int]:
    """How many letters may be taken for each origin that has some due, as `Outbox.take` says."""
    free, shares = most - sum(busy.values()), dict[str, int]()
    for origin in sorted(due_at, key=lambda origin: (busy.get(origin, 0), due_at[origin])):
        room = math.ceil(most_of_one * free / most) - busy.get(origin, 0)
        if room > 0 and due_at[origin] <= now:
            shares[origin] = room
            free -= room
    return shares


def take(connection: Connection, now: float, lease_seconds: float, shares: Mapping[str, int]) -> list[Letter]:
    """For each origin as many letters that are due as its share allows; not all of them at once."""
    letters: list[Letter] = []
    for origin, share in shares.items():
        most = min(share, MOST_TOGETHER - len(letters))
        for row in connection.execute(_DUE, {"of_origin": origin, "now": now, "most": most}):
            letters.append(Letter(row.id, row.task_id, row.url, row.secret, row.origin, row.attempts + 1))
        if len(letters) == MOST_TOGETHER:
            break
    if letters:
        ids = [letter.id for letter in letters]
        connection.execute(update(webhooks).where(webhooks.c.id.in_(ids)).values(next_at=now + lease_seconds))
    return letters


def record(
    connection: Connection, letter: Letter, attempt: Attempt, *, next_at: float | None, is_delivered: bool
) -> None:
    """Write an attempt down. `next_at` None ends it: delivered, or given up."""
    connection.execute(
        insert(deliveries).values(
            webhook_id=letter.id,
            attempt=letter.attempt,
            at=attempt.at,
            seconds=attempt.seconds,
            status=attempt.status,
            error=attempt.error,
        )
    )
    connection.execute(
        update(webhooks)
        .where(webhooks.c.id == letter.id, webhooks.c.attempts == letter.attempt - 1)
        .values(attempts=letter.attempt, next_at=next_at, delivered_at=attempt.at if is_delivered else None)
    )


def delivery_log(connection: Connection, account_id: str | None, task_id: str) -> DeliveryLog:
    """Of a task of this account, of any if None. Raises `NotFound`, also where there is no webhook yet."""
    found = select(webhooks).join(tasks, tasks.c.id == webhooks.c.task_id).where(tasks.c.id == task_id)
    if account_id is not None:
        found = found.where(tasks.c.account_id == account_id)
    row = connection.execute(found).one_or_none() if can_be_id(task_id) else None
    if row is None:
        raise NotFound(f"no finished task with a webhook has the id {shown(task_id)}")
    attempts = connection.execute(select(deliveries).where(deliveries.c.webhook_id == row.id).order_by(deliveries.c.id))
    return DeliveryLog(
        id=row.id,
        url=row.url,
        created_at=row.created_at,
        next_at=row.next_at,
        delivered_at=row.delivered_at,
        attempts=tuple(Attempt(each.at, each.seconds, each.status, each.error) for each in attempts),
    )


def resend(connection: Connection, now: float, account_id: str | None, task_id: str) -> DeliveryLog:
    """Send it at once, whether or not it had been delivered or given up. Raises `NotFound`."""
    log = delivery_log(connection, account_id, task_id)
    connection.execute(update(webhooks).where(webhooks.c.id == log.id).values(next_at=now, delivered_at=None))
    return delivery_log(connection, account_id, task_id)


def origin_of(url: str) -> str:
    """Of any text, for a task must end whatever its webhook looks like."""
    return (re.match(r"[^/?#]*//[^/?#]*", url) or [url])[0].lower()
