"""A task's events, as they happen (server-sent): its status, its steps, and how its picture looks so far.

Each event is how the task stands at that moment, and its id is the task's version, which grows with every change. A
reader who is slow, or comes back with the Last-Event-ID that it had, misses looks on the way, but never the end: that
comes once, and last. Nothing is kept for readers, so a thousand of them cost no memory.
"""

import base64
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

from fastapi.responses import Response, StreamingResponse

from fluxserve.api.context import Context
from fluxserve.api.dialects.piapi.answers import task_data
from fluxserve.api.waiting import followed
from fluxserve.domain.errors import TooMany
from fluxserve.domain.task import Output, State, Task

RETRY_AFTER_SECONDS = 5
COMMENT_SECONDS = 15.0  # of nothing to tell, after which proxies might think that nobody is there
MOST_FOLLOWERS = 100  # of one account: each looks at the database whenever its task changes
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


async def follow(
    context: Context,
    followers: Counter[str],
    account_id: str,
    task_id: str,
    last_event_id: str,
    picture_url: Callable[[Output], str],
) -> Response:
    """The events after `last_event_id`, all if it is none of ours. Raises `NotFound`, or `TooMany` when as many
    `followers` as an account may have are there.
    """
    seen = int(last_event_id) if last_event_id.isdecimal() and len(last_event_id) < 10 else -1
    task = await context.queue.get(account_id, task_id)
    if seen > task.version:
        seen = -1
    if task.state.is_final and task.version == seen:
        return Response(status_code=204)  # the end was heard: a browser asks no more
    if followers[account_id] >= MOST_FOLLOWERS:
        raise TooMany(
            f"events: {MOST_FOLLOWERS} of this account's tasks are followed already; end one, or poll",
            RETRY_AFTER_SECONDS,
        )
    events = _events(context, followers, task, seen, picture_url)
    return StreamingResponse(events, media_type="text/event-stream", headers=HEADERS)


async def _events(
    context: Context, followers: Counter[str], task: Task, seen: int, picture_url: Callable[[Output], str]
) -> AsyncIterator[str]:
    spoken_at = time.monotonic()
    async with aclosing(followed(context.queue, task, seen)) as looks:
        with _counted(followers, task.account_id):
            async for look in looks:
                if look is not None:
                    yield _event(look, await _data(context, look, picture_url))
                elif time.monotonic() - spoken_at >= COMMENT_SECONDS:
                    yield ": nothing new\n\n"
                else:
                    continue
                spoken_at = time.monotonic()


@contextmanager
def _counted(followers: Counter[str], account_id: str) -> Iterator[None]:
    followers[account_id] += 1
    try:
        yield
    finally:
        followers[account_id] -= 1
        if not followers[account_id]:
            del followers[account_id]


def _event(task: Task, data: dict[str, Any]) -> str:
    name = str(task.state) if task.state.is_final else "progress"
    return f"id: {task.version}\nevent: {name}\ndata: {json.dumps(data)}\n\n"


async def _data(context: Context, task: Task, picture_url: Callable[[Output], str]) -> dict[str, Any]:
    """At the end all that a poll would tell; before it, how far it is."""
    if task.state.is_final:
        return task_data(task, picture_url)
    data = {"task_id": task.id, "status": str(task.state), "step": task.step or 0, "steps": task.steps or 0}
    preview = await context.queue.preview(task.id) if task.state is State.PROCESSING else None
    if preview:
        kind = task.generation.format if task.generation.previews else "png"
        data["preview"] = f"data:image/{kind};base64,{base64.b64encode(preview).decode()}"
    return data
