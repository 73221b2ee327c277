"""The queue as the rest of the house uses it: the verbs, awaited, with a signal when there is something to do."""

import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from sqlalchemy import Connection

from fluxserve.config import PriceSettings
from fluxserve.domain.credits import price
from fluxserve.domain.errors import TooMany
from fluxserve.domain.generation import Generation
from fluxserve.domain.task import Ending, Output, Repeatable, Submission, Task, Waiting
from fluxserve.tasks import lists, pictures, repeats, verbs
from fluxserve.tasks.audit import audit
from fluxserve.tasks.database import Database
from fluxserve.tasks.lists import Page, Sought
from fluxserve.tasks.pictures import Stored
from fluxserve.tasks.signals import CANCEL, POST, WAKE, Clock, Signals
from fluxserve.tasks.verbs import RETRY_AFTER_SECONDS, Held

T = TypeVar("T")

MOST_EXPIRED = 500  # tasks that one pass ends
COUNT_SECONDS = 1.0

__all__ = ["Held", "Queue", "Rules"]


@dataclass(frozen=True, slots=True)
class Rules:
    """`prices` are points a picture, by product."""

    lease_seconds: float = 30.0
    losses_allowed: int = 3
    most_staged: int = 50
    most_waiting: int = 100_000
    most_uploads: int = 500
    deadline_seconds: float = 86_400.0
    prices: Mapping[str, int] = field(default_factory=lambda: PriceSettings().of_products)


class Queue:
    """Each method is one transaction. `signals` tells whoever waits for what it does. `check_room` raises `NoRoom` when
    nothing new may be accepted."""

    def __init__(
        self,
        database: Database,
        rules: Rules,
        signals: Signals | None = None,
        clock: Clock | None = None,
        check_room: Callable[[], None] = lambda: None,
    ) -> None:
        self.signals = signals or Signals(database)
        self._database = database
        self._rules = rules
        self._clock = clock or database.now
        self._check_room = check_room
        self._number_waiting, self._counted_at = 0, -COUNT_SECONDS

    # ------------------------------------------------------------ for callers

    def price(self, generation: Generation, product: str | None = None) -> int:
        """What it would cost in the public pool, in points."""
        return price(generation, self._rules.prices, product)

    async def submit(self, asked: Submission) -> Task:
        """Accept a task. When this returns it is durable and its price is held.

        After `Unavailable` it may have been accepted all the same, but not after `NoRoom`.
        """
        self._check_room()
        await self._check_crowd()

        def verb(connection: Connection) -> Task:
            now = self._clock(connection)
            return verbs.submit(
                connection,
                now,
                asked,
                task_id=str(uuid.uuid4()),
                price=self.price(asked.generation, asked.product),
                deadline=now + (asked.deadline_seconds or self._rules.deadline_seconds),
                most_staged=self._rules.most_staged,
            )

        return await self._write(verb, lambda _: (WAKE,))

    async def made_before(self, account_id: str, repeatable: Repeatable) -> Task | None:
        """The task that this request made when it came first, as it was then. Raises `KeyReused`."""
        return await self._database.glance(
            lambda connection: repeats.made_before(connection, self._clock(connection), account_id, repeatable)
        )

    async def get(self, account_id: str, task_id: str) -> Task:
        """Raises `NotFound`, also for another account's task."""
        return await self._database.glance(lambda connection: verbs.get(connection, account_id, task_id))

    async def cancel(self, account_id: str, task_id: str) -> Task:
        """Raises `NotFound`."""
        return await self._write(
            lambda connection: verbs.cancel(connection, self._clock(connection), account_id, task_id),
            lambda _: (WAKE, CANCEL, POST, task_id),
        )

    async def cancel_all(self, account_id: str, sought: Sought) -> list[Task]:
        return await self._write(
            lambda connection: verbs.cancel_all(connection, self._clock(connection), account_id, sought),
            lambda cancelled: (WAKE, CANCEL, POST, *(task.id for task in cancelled)),
        )

    async def open_tasks(self, account_id: str) -> list[Task]:
        """Those that have not ended, oldest first."""
        return await self._database.read(lambda connection: lists.open_tasks(connection, account_id, Sought()))

    async def history(self, account_id: str, sought: Sought, page: int, size: int) -> Page:
        """Page number `page`, from 1, of `size` tasks each, newest first."""
        return await self._database.read(lambda connection: lists.history(connection, account_id, sought, page, size))

    async def preview(self, task_id: str) -> bytes | None:
        """How a task that is being drawn looks so far, as a small PNG."""
        return await self._database.glance(lambda connection: pictures.preview(connection, task_id))

    # ------------------------------------------------------------ for the floor

    async def waiting(self, most: int) -> list[Waiting]:
        """The oldest pending tasks of each account and pool, at most so many of each, in no order."""
        return await self._database.read(lambda connection: verbs.waiting(connection, most))

    async def claim(self, task_ids: Iterable[str], early: Collection[str] = ()) -> list[Task]:
        """`early` are those that go before another account's turn."""
        chosen = list(task_ids)
        return await self._write(
            lambda connection: verbs.claim(
                connection, self._clock(connection), self._rules.lease_seconds, chosen, early
            ),
            lambda claimed: [task.id for task in claimed],
        )

    async def renew(self, held: Iterable[Held]) -> set[Held]:
        running = list(held)
        return await self._database.write(
            lambda connection: verbs.renew(connection, self._clock(connection), self._rules.lease_seconds, running)
        )

    async def progress(self, held: Held, step: int, steps: int | None = None, preview: bytes = b"") -> bool:
        """`step` of `steps` denoising steps are done, 0 of unknown many as it begins."""
        return await self._write(
            lambda connection: verbs.progress(
                connection, self._clock(connection), self._rules.lease_seconds, held, step, steps, preview
            ),
            lambda _: (held.task_id,),
        )

    async def wished_cancelled(self) -> list[Held]:
        return await self._database.read(verbs.wished_cancelled)

    async def finish(self, held: Held, ending: Ending) -> Task | None:
        return await self._write(
            lambda connection: verbs.finish(
                connection, self._clock(connection), held, ending, self._rules.losses_allowed
            ),
            lambda task: (WAKE, held.task_id, *((POST,) if task and task.webhook else ())),
        )

    async def rescue(self, *, everything: bool = False) -> list[Task]:
        """Take back the tasks whose leases have run out, or all that are running."""

        def verb(connection: Connection) -> list[Task]:
            now = self._clock(connection)
            verbs.shorten_leases(connection, now, self._rules.lease_seconds)
            return verbs.rescue(connection, now, self._rules.losses_allowed, everything=everything)

        return await self._write(verb, _of_several)

    async def expire(self) -> list[Task]:
        """End the waiting tasks whose deadlines have passed, and have those that run stopped."""
        return await self._write(
            lambda connection: verbs.expire(connection, self._clock(connection), MOST_EXPIRED), _of_several
        )

    # ------------------------------------------------------------ pictures on the shelf

    async def stored(self, picture_id: str) -> Stored:
        """An output or an upload, by its address. Raises `NotFound` when there is none, or no longer."""
        return await self._database.glance(
            lambda connection: pictures.stored(connection, self._clock(connection), picture_id)
        )

    async def expired_outputs(self, most: int) -> list[Output]:
        return await self._database.read(
            lambda connection: pictures.expired_outputs(connection, self._clock(connection), most)
        )

    async def mark_swept(self, output_ids: Iterable[str]) -> None:
        swept = list(output_ids)
        await self._database.write(lambda connection: pictures.mark_swept(connection, self._clock(connection), swept))

    async def spent_inputs(self, most: int) -> list[str]:
        return await self._database.read(lambda connection: pictures.spent_inputs(connection, most))

    async def forget_inputs(self, keys: Iterable[str]) -> None:
        spent = list(keys)
        await self._database.write(lambda connection: pictures.forget_inputs(connection, spent))

    async def uploaded_before(self, account_id: str, repeatable: Repeatable) -> str | None:
        """The id of the upload that this request made when it came first. Raises `KeyReused`."""
        return await self._database.glance(
            lambda connection: repeats.uploaded_before(connection, self._clock(connection), account_id, repeatable)
        )

    async def add_upload(
        self, account_id: str, upload_id: str, key: str, keep_seconds: float, repeatable: Repeatable | None = None
    ) -> str:
        """Returns its id; that of the upload that the same request made before, if it did, and then adds none."""

        def verb(connection: Connection) -> str:
            now = self._clock(connection)
            return pictures.add_upload(
                connection, now, account_id, upload_id, key, now + keep_seconds, self._rules.most_uploads, repeatable
            )

        return await self._database.write(verb)

    async def expired_uploads(self, most: int) -> list[str]:
        return await self._database.read(
            lambda connection: pictures.expired_uploads(connection, self._clock(connection), most)
        )

    async def forget_uploads(self, keys: Iterable[str]) -> None:
        old = list(keys)
        await self._database.write(lambda connection: pictures.forget_uploads(connection, old))

    async def kept_keys(self) -> set[str]:
        return await self._database.read(pictures.kept_keys)

    # ------------------------------------------------------------ the whole

    async def has_tasks(self) -> bool:
        """Whether there ever was one."""
        return await self._database.read(lists.has_tasks)

    async def forget_old_repeats(self) -> None:
        await self._database.write(lambda connection: repeats.forget_old(connection, self._clock(connection)))

    async def _check_crowd(self) -> None:
        """Raises `TooMany`. Cheap: the tasks are counted once a second, and so many more may come in meanwhile."""
        if time.monotonic() - self._counted_at >= COUNT_SECONDS:
            self._counted_at = time.monotonic()
            self._number_waiting = await self._database.read(lists.number_waiting)
        if self._number_waiting >= self._rules.most_waiting:
            raise TooMany(
                f"queue: {self._number_waiting} tasks of all accounts wait, and FLUXSERVE_MOST_WAITING allows "
                f"{self._rules.most_waiting}; Retry-After says when to come again",
                RETRY_AFTER_SECONDS,
            )

    async def audit(self) -> list[str]:
        return await self._database.read(audit)

    async def _write(self, verb: Callable[[Connection], T], signals: Callable[[T], Iterable[str]]) -> T:
        """Run a verb, then tell whoever waits for what it did: the other servers by its own transaction."""

        def announcing(connection: Connection) -> T:
            result = verb(connection)
            return self.signals.announcing(connection, signals(result), result)

        result = await self._database.write(announcing)
        self.signals.give(*signals(result))
        return result


def _of_several(moved: list[Task]) -> Iterable[str]:
    return (WAKE, CANCEL, POST, *(task.id for task in moved)) if moved else ()
