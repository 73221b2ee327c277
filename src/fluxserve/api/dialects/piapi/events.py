"""A task's events, as they happen (server-sent): its status, its steps, and how its picture looks so far.

Each event is how the task stands at that moment, and its id is the task's version, which grows with every change. A
reader who is slow, or comes back with the Last-Event-ID that it had, misses looks on the way, but never the end: that
comes once, and last. Nothing is kept for readers, so a thousand of them cost no memory.
"""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi.responses import Response, StreamingResponse

from fluxserve.api.context import Context
from fluxserve.api.dialects.piapi.answers import task_data
from fluxserve.domain.task import Output, State, Task

LOOK_SECONDS = 2.0  # without a signal
COMMENT_SECONDS = 15.0  # of nothing to tell, after which proxies might think that nobody is there
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


async def follow(
    context: Context, account_id: str, task_id: str, last_event_id: str, picture_url: Callable[[Output], str]
) -> Response:
    """The events after `last_event_id`, all if it is none of ours. Raises `NotFound`."""
    seen = int(last_event_id) if last_event_id.isdecimal() and len(last_event_id) < 10 else -1
    task = await context.queue.get(account_id, task_id)
    if seen > task.version:
        seen = -1
    if task.state.is_final and task.version == seen:
        return Response(status_code=204)  # the end was heard: a browser asks no more
    return StreamingResponse(_events(context, task, seen, picture_url), media_type="text/event-stream", headers=HEADERS)


async def _events(context: Context, task: Task, seen: int, picture_url: Callable[[Output], str]) -> AsyncIterator[str]:
    with context.queue.signals.listening(task.id) as changed:
        silent = 0.0
        while True:
            changed.clear()  # before the look: what changes after it is seen by the next
            task = await context.queue.get(task.account_id, task.id)
            if task.version > seen:
                seen, silent = task.version, 0.0
                yield _event(task, await _data(context, task, picture_url))
            if task.state.is_final:
                return
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await changed.wait()
            except TimeoutError:
                silent += LOOK_SECONDS
                if silent >= COMMENT_SECONDS:
                    silent = 0.0
                    yield ": nothing new\n\n"


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
        data["preview"] = f"data:image/png;base64,{base64.b64encode(preview).decode()}"
    return data
