"""The outbox: webhooks to be sent, and every attempt to send one.

A row is written in the transaction that ends its task, so that none is forgotten; it says when it is to be sent next.
Whoever takes it moves that time on by a lease, so that no other sends it meanwhile, and a sender that dies leaves
nothing behind. An attempt that is not written down is made again: a receiver hears of an ending at least once.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from sqlalchemy import Connection, insert, select, update

from fluxserve.domain.errors import NotFound, shown
from fluxserve.domain.task import Task
from fluxserve.tasks.database import Database
from fluxserve.tasks.rows import can_be_id, row_of, task_of
from fluxserve.tasks.schema import deliveries, tasks, webhooks
from fluxserve.tasks.signals import POST, Clock, Signals


@dataclass(frozen=True, slots=True)
class Letter:
    """A webhook that is to be sent now, for the `attempt`th time. `origin` is its receiver's scheme, host and port."""

    id: str
    task: Task
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

    async def take(self, lease_seconds: float, busy: Mapping[str, int], *, most_of_one: int, most: int) -> list[Letter]:
        """Up to `most` letters that are due, for the caller alone until the lease ends.

        `busy` is how many are under way to each origin: no origin gets more than `most_of_one` at once, so that one
        which hangs delays no other.
        """
        under_way = dict(busy)
        return await self._database.write(
            lambda connection: take(
                connection, self._clock(connection), lease_seconds, under_way, most_of_one=most_of_one, most=most
            )
        )

    async def seconds_to_next(self) -> float | None:
        """Until something is due, 0 if something is; None if nothing is to be sent at all."""

        def look(connection: Connection) -> float | None:
            due = next_due(connection)
            return None if due is None else max(0.0, due - self._clock(connection))

        return await self._database.read(look)

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
            origin=_origin(task.webhook.url),
            created_at=now,
            attempts=0,
            next_at=now,
        )
    )


def take(
    connection: Connection, now: float, lease_seconds: float, busy: Mapping[str, int], *, most_of_one: int, most: int
) -> list[Letter]:
    """As `Outbox.take`."""
    is_due = webhooks.c.next_at <= now
    taken: list[Letter] = []
    for origin in connection.execute(select(webhooks.c.origin).where(is_due).distinct()).scalars().all():
        room = min(most_of_one - busy.get(origin, 0), most - len(taken))
        if room <= 0:
            continue
        rows = connection.execute(
            select(webhooks)
            .where(is_due, webhooks.c.origin == origin)
            .order_by(webhooks.c.next_at)
            .limit(room)
            .with_for_update(skip_locked=True)
        ).all()
        if rows:
            ids = [row.id for row in rows]
            connection.execute(update(webhooks).where(webhooks.c.id.in_(ids)).values(next_at=now + lease_seconds))
        taken += [
            Letter(
                row.id,
                task_of(connection, row_of(connection, row.task_id)),
                row.url,
                row.secret,
                origin,
                row.attempts + 1,
            )
            for row in rows
        ]
    return taken


def next_due(connection: Connection) -> float | None:
    """When there will be something to send."""
    due: float | None = connection.execute(
        select(webhooks.c.next_at).where(webhooks.c.next_at.is_not(None)).order_by(webhooks.c.next_at).limit(1)
    ).scalar_one_or_none()
    return due


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


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme.lower()}://{parts.netloc.lower()}"
