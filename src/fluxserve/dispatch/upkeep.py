"""What is done by the clock whatever else happens: rescue tasks whose leases have run out, release what completions of
dead servers hold, end tasks whose deadlines have passed, sweep pictures and answers that have expired or served, and
what crashes have left.
"""

import asyncio
import logging
import time

from fluxserve.domain.errors import Unavailable
from fluxserve.storage import Shelf
from fluxserve.tasks import Completions, Queue

log = logging.getLogger(__name__)

MOST_SWEPT = 500
TIDY_EVERY = 900.0  # seconds
LEFT_SECONDS = 3600.0  # that a file which no task knows has lain untouched before it is deleted: it may be on its way


class Upkeep:
    """One pass every `every` seconds; a pass that breaks is logged, and the next one comes."""

    def __init__(self, *, queue: Queue, completions: Completions, shelf: Shelf, every: float) -> None:
        self._queue = queue
        self._completions = completions
        self._shelf = shelf
        self._every = every
        self._tidied_at = time.monotonic()
        self._loop: asyncio.Task[None] | None = None

    async def clear_up(self, untouched_seconds: float = LEFT_SECONDS) -> None:
        """Delete the pictures that a crash left between the shelf and the commit: no task knows them."""
        known = await self._queue.kept_keys()  # before the shelf is looked at: what comes later is too young
        left = await asyncio.to_thread(self._shelf.keep_only, known, untouched_seconds)
        if left:
            log.warning("%d picture files that a crash had left were deleted", left)

    def start(self) -> None:
        self._loop = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)

    async def one_pass(self) -> None:
        for task in await self._queue.rescue():
            log.warning("task %s was rescued: it is %s again", task.id, task.state)
        for completion in await self._completions.rescue():
            log.warning("completion %s was left by its server: it costs nothing", completion.id)
        for task in await self._queue.expire():
            log.info("task %s: its deadline passed; it is %s", task.id, task.state)
        expired = await self._queue.expired_outputs(MOST_SWEPT)
        await self._delete([output.key for output in expired])
        if expired:
            await self._queue.mark_swept([output.id for output in expired])
        for list_keys, forget in (
            (self._queue.spent_inputs, self._queue.forget_inputs),
            (self._queue.expired_uploads, self._queue.forget_uploads),
        ):
            if keys := await list_keys(MOST_SWEPT):
                await self._delete(keys)
                await forget(keys)
        if time.monotonic() - self._tidied_at > TIDY_EVERY:
            self._tidied_at = time.monotonic()
            await self._queue.forget_old_repeats()
            await self._completions.forget_old_answers()
            await self.clear_up()

    async def _delete(self, keys: list[str]) -> None:
        for key in keys:
            await asyncio.to_thread(self._shelf.delete, key)

    async def _run(self) -> None:
        while True:
            try:
                await self.one_pass()
            except Unavailable:
                log.warning("a pass of the upkeep could not be made, for the database is gone")
            except Exception:
                log.exception("a pass of the upkeep broke; going on")
            await asyncio.sleep(self._every)
