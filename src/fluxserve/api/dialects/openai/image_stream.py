"""Pictures as they are drawn (server-sent): the looks that were promised, then the finished ones."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from fluxserve.api.context import Context
from fluxserve.api.dialects.openai.answers import body_of, failure
from fluxserve.domain.errors import NotFound, NotYet, Unavailable
from fluxserve.domain.task import Output, State, Task

LOOK_SECONDS = 2.0  # without a signal
STREAMED = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
TASK_ID = "x-task-id"
COMMENT_SECONDS = 15.0  # of nothing to tell, after which proxies might think that nobody is there


async def events(context: Context, task: Task, name: str) -> AsyncIterator[str]:
    """`name` is "image_generation" or "image_edit". A caller who hangs up cancels the task."""
    try:
        async for event in _events(context, task, name):
            yield event
    except (asyncio.CancelledError, GeneratorExit):
        await asyncio.shield(context.queue.cancel(task.account_id, task.id))
        raise


async def _events(context: Context, task: Task, name: str) -> AsyncIterator[str]:
    promised, sent, spoken_at, began = task.generation.previews, list[bytes](), time.monotonic(), time.monotonic()
    with context.queue.signals.listening(task.id) as changed:
        while not task.state.is_final:
            changed.clear()  # before the look: what changes after it is seen by the next
            try:
                task = await context.queue.get(task.account_id, task.id)
                look = await context.queue.preview(task.id) if promised and task.state is State.PROCESSING else None
            except Unavailable:
                look = None
            if look and look not in sent and len(sent) < promised:
                yield _event(f"{name}.partial_image", task, look, {"partial_image_index": len(sent)})
                sent.append(look)
                spoken_at = time.monotonic()
            if task.state.is_final:
                break
            if time.monotonic() - began > context.wait_seconds:
                late = f"the task has not ended after {context.wait_seconds:g} s; it goes on, and its id is {task.id}"
                yield _error(body_of(NotYet(late)))
                return
            if time.monotonic() - spoken_at > COMMENT_SECONDS:
                yield ": nothing new\n\n"
                spoken_at = time.monotonic()
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await changed.wait()
            except TimeoutError:
                pass
    if task.state is State.FAILED:
        yield _error(failure(task)[0])
        return
    for output in task.outputs:
        data = await asyncio.to_thread(bytes_of, context, output)
        yield _event(f"{name}.completed", task, data, {"usage": answer_of(task)["usage"]})


def answer_of(task: Task) -> dict[str, Any]:
    """What the answer says beside the pictures, as it was settled when the task was submitted."""
    said = task.request.get("answer")
    if not isinstance(
        said, dict
    ):  # a task of another door's, by the same idempotency key: they can't be the same request
        raise NotFound(f"task {task.id} is none of this API's")
    return said


async def in_base64(context: Context, output: Output) -> str:
    """Raises `NotFound` once it has expired."""
    return base64.b64encode(await asyncio.to_thread(bytes_of, context, output)).decode()


def bytes_of(context: Context, output: Output) -> bytes:
    try:
        return context.shelf.path(output.key).read_bytes()
    except FileNotFoundError:
        raise NotFound("the picture has expired") from None


def _event(name: str, task: Task, picture: bytes, more: dict[str, Any]) -> str:
    looks = {key: value for key, value in answer_of(task).items() if key != "usage"}
    data = {
        "type": name,
        "b64_json": base64.b64encode(picture).decode(),
        "created_at": int(time.time()),
        **looks,
        **more,
    }
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


def _error(said: dict[str, Any]) -> str:
    return f"event: error\ndata: {json.dumps({'type': 'error', **said})}\n\n"
