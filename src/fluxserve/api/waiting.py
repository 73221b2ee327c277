"""Callers who hold the line until their task has ended."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.types import Receive

from fluxserve.domain.errors import NotYet, Unavailable
from fluxserve.domain.task import Task
from fluxserve.tasks import Queue

T = TypeVar("T")

LOOK_SECONDS = 2.0  # without a signal
NOBODY_HEARS = 499  # the status of an answer whose caller has hung up


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


async def held_until_ended(request: Request, queue: Queue, task: Task, seconds: float) -> Task:
    """The task once it has ended. One whose caller hangs up is cancelled, but for one that was named by its caller, who
    may ask for it again. Raises `HungUp` or `NotYet`.
    """
    try:
        return await unless_hung_up(request.receive, until_ended(queue, task, seconds))
    except HungUp:
        await _left(request, queue, task)
        raise


async def told_meanwhile(request: Request, queue: Queue, task: Task, told: AsyncIterator[str]) -> AsyncIterator[str]:
    """`told`, events of that task, to a caller who may hang up: then it is cancelled likewise."""
    try:
        async for event in told:
            yield event
    except (asyncio.CancelledError, GeneratorExit):
        await asyncio.shield(_left(request, queue, task))
        raise


async def _left(request: Request, queue: Queue, task: Task) -> None:
    if "idempotency-key" not in request.headers:
        await queue.cancel(task.account_id, task.id)


async def unless_hung_up(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """What `work` comes to. It is cancelled when the caller hangs up first; then raises `HungUp`."""
    working, listening = asyncio.create_task(work), asyncio.create_task(until_hung_up(receive))
    try:
        await asyncio.wait((working, listening), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return await working
        raise HungUp
    finally:
        for each in (working, listening):
            each.cancel()
        await asyncio.gather(working, listening, return_exceptions=True)


async def until_hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
