"""The queue as the rest of the house uses it: the verbs, awaited, with a signal when there is something to do."""

import asyncio
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fluxserve.domain.credits import price
from fluxserve.domain.generation import Generation
from fluxserve.domain.task import Ending, Output, Task
from fluxserve.tasks import verbs
from fluxserve.tasks.audit import audit
from fluxserve.tasks.database import Database
from fluxserve.tasks.verbs import Held

Clock = Callable[[], float]

__all__ = ["Clock", "Held", "Queue", "Rules"]


@dataclass(frozen=True, slots=True)
class Rules:
    lease_seconds: float = 30.0
    losses_allowed: int = 3
    most_staged: int = 50


class Queue:
    """Each method is one transaction.

    `wake` is set whenever a task may have become claimable, `cancel_wished` when one that runs should be stopped.
    """

    def __init__(self, database: Database, rules: Rules, clock: Clock = time.time) -> None:
        self._database = database
        self._rules = rules
        self._clock = clock
        self.wake = asyncio.Event()
        self.cancel_wished = asyncio.Event()

    async def submit(self, account_id: str, request: dict[str, object], generation: Generation) -> Task:
        """Accept a task. When this returns it is durable and its price is held."""
        task = await self._database.write(
            lambda connection: verbs.submit(
                connection,
                self._clock(),
                task_id=str(uuid.uuid4()),
                account_id=account_id,
                request=request,
                generation=generation,
                price=price(generation),
                most_staged=self._rules.most_staged,
            )
        )
        self.wake.set()
        return task

    async def get(self, account_id: str, task_id: str) -> Task:
        return await self._database.read(lambda connection: verbs.get(connection, account_id, task_id))

    async def cancel(self, account_id: str, task_id: str) -> Task:
        task = await self._database.write(
            lambda connection: verbs.cancel(connection, self._clock(), account_id, task_id)
        )
        self.cancel_wished.set()
        return task

    async def waiting(self, most: int) -> list[str]:
        return await self._database.read(lambda connection: verbs.waiting(connection, most))

    async def claim(self, task_ids: Iterable[str]) -> list[Task]:
        chosen = list(task_ids)
        return await self._database.write(
            lambda connection: verbs.claim(connection, self._clock(), self._rules.lease_seconds, chosen)
        )

    async def renew(self, held: Iterable[Held]) -> set[Held]:
        running = list(held)
        return await self._database.write(
            lambda connection: verbs.renew(connection, self._clock(), self._rules.lease_seconds, running)
        )

    async def progress(self, held: Held, step: int) -> bool:
        return await self._database.write(
            lambda connection: verbs.progress(connection, self._clock(), self._rules.lease_seconds, held, step)
        )

    async def wished_cancelled(self) -> list[Held]:
        return await self._database.read(verbs.wished_cancelled)

    async def finish(self, held: Held, ending: Ending) -> Task | None:
        task = await self._database.write(
            lambda connection: verbs.finish(connection, self._clock(), held, ending, self._rules.losses_allowed)
        )
        self.wake.set()
        return task

    async def rescue(self, *, everything: bool = False) -> list[Task]:
        rescued = await self._database.write(
            lambda connection: verbs.rescue(
                connection, self._clock(), self._rules.losses_allowed, everything=everything
            )
        )
        if rescued:
            self.wake.set()
        return rescued

    async def output(self, output_id: str) -> Output:
        return await self._database.read(lambda connection: verbs.output(connection, self._clock(), output_id))

    async def expired_outputs(self, most: int) -> list[Output]:
        return await self._database.read(lambda connection: verbs.expired_outputs(connection, self._clock(), most))

    async def spent_inputs(self, most: int) -> list[str]:
        return await self._database.read(lambda connection: verbs.spent_inputs(connection, most))

    async def forget_inputs(self, keys: Iterable[str]) -> None:
        spent = list(keys)
        await self._database.write(lambda connection: verbs.forget_inputs(connection, spent))

    async def kept_keys(self) -> set[str]:
        return await self._database.read(verbs.kept_keys)

    async def mark_swept(self, output_ids: Iterable[str]) -> None:
        swept = list(output_ids)
        await self._database.write(lambda connection: verbs.mark_swept(connection, self._clock(), swept))

    async def audit(self) -> list[str]:
        return await self._database.read(audit)
