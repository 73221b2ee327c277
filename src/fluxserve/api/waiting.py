"""Callers who hold the line until their task has ended."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.requests import Request

from fluxserve.domain.errors import NotYet, Unavailable
from fluxserve.domain.task import Task
from fluxserve.tasks import Queue

T = TypeVar("T")

LOOK_SECONDS = 2.0  # without a signal


class HungUp(Exception):
    """The caller is gone: nobody hears an answer."""


async def followed(queue: Queue, task: Task, after: int = -1) -> AsyncGenerator[Task | None, None]:
    """The task as it is, at each change that callers can see from the version `after` on, until it has ended; and None
    whenever there was nothing to tell for a while.
    """
    with queue.signals.listening(task.id) as changed:
        while True:
            changed.clear()  # before the look: what changes after it is seen by the next
            try:
                task = await queue.get(task.account_id, task.id)
            except Unavailable:  # it may be drawn all the same: what is not known now may be in a moment
                await asyncio.sleep(LOOK_SECONDS)
                yield None
                continue
            if task.version > after:
                after = task.version
                yield task
            if task.state.is_final:
                return
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await changed.wait()
            except TimeoutError:
                yield None


async def until_ended(queue: Queue, task: Task, seconds: float) -> Task:
    """The task once it is completed or failed. Raises `NotYet` after so many seconds."""
    try:
        async with asyncio.timeout(seconds), aclosing(followed(queue, task)) as looks:
            async for look in looks:
                task = look or task
    except TimeoutError:
        raise too_late(task, seconds) from None
    return task


def too_late(task: Task, seconds: float) -> NotYet:
    return NotYet(
        f"the task has not ended after {seconds:g} s; it goes on, and its id is {task.id}: GET /api/v1/task/{task.id} "
        "tells how it is"
    )


async def unless_hung_up(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What `work` comes to. It is cancelled when the caller hangs up first; then raises `HungUp`."""
    working, listening = asyncio.create_task(work), asyncio.create_task(_until_hung_up(request))
    try:
        await asyncio.wait((working, listening), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return await working
        raise HungUp
    finally:
        for each in (working, listening):
            each.cancel()
        await asyncio.gather(working, listening, return_exceptions=True)


async def _until_hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
