"""Callers who hold the line until their task has ended."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from fluxserve.domain.errors import NotYet, Unavailable
from fluxserve.domain.task import Task
from fluxserve.tasks import Queue

T = TypeVar("T")

LOOK_SECONDS = 2.0  # without a signal


class HungUp(Exception):
    """The caller is gone: nobody hears an answer."""


async def until_ended(queue: Queue, task: Task, seconds: float) -> Task:
    """The task once it is completed or failed. Raises `NotYet` after so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            with queue.signals.listening(task.id) as changed:
                while not task.state.is_final:
                    changed.clear()  # before the look: what changes after it is seen by the next
                    task = await _looked_at(queue, task)
                    if not task.state.is_final:
                        await _set(changed, LOOK_SECONDS)
    except TimeoutError:
        raise NotYet(
            f"the task has not ended after {seconds:g} s; it goes on, and its id is {task.id}: GET "
            f"/api/v1/task/{task.id} tells how it is"
        ) from None
    return task


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


async def _looked_at(queue: Queue, task: Task) -> Task:
    try:
        return await queue.get(task.account_id, task.id)
    except Unavailable:  # it may be drawn all the same: what is not known now may be in a moment
        return task


async def _set(event: asyncio.Event, within_seconds: float) -> None:
    try:
        async with asyncio.timeout(within_seconds):
            await event.wait()
    except TimeoutError:
        pass
