"""What is done by the clock whatever else happens: rescue tasks whose leases have run out, sweep expired pictures, and
callers' pictures that have served."""

import asyncio
import logging

from fluxserve.storage import Shelf
from fluxserve.tasks import Queue

log = logging.getLogger(__name__)

MOST_SWEPT = 500


class Upkeep:
    """One pass every `every` seconds; a pass that breaks is logged, and the next one comes."""

    def __init__(self, *, queue: Queue, shelf: Shelf, every: float) -> None:
        self._queue = queue
        self._shelf = shelf
        self._every = every
        self._loop: asyncio.Task[None] | None = None

    async def clear_up(self) -> None:
        """Delete the pictures that a crash left between the shelf and the commit: no task knows them. Only before
        anything is drawn."""
        left = await asyncio.to_thread(self._shelf.keep_only, await self._queue.kept_keys())
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
        expired = await self._queue.expired_outputs(MOST_SWEPT)
        for output in expired:
            await asyncio.to_thread(self._shelf.delete, output.key)
        if expired:
            await self._queue.mark_swept([output.id for output in expired])
        spent = await self._queue.spent_inputs(MOST_SWEPT)
        for key in spent:
            await asyncio.to_thread(self._shelf.delete, key)
        if spent:
            await self._queue.forget_inputs(spent)

    async def _run(self) -> None:
        while True:
            try:
                await self.one_pass()
            except Exception:
                log.exception("a pass of the upkeep broke; going on")
            await asyncio.sleep(self._every)
