"""Pictures as they are drawn (server-sent): the looks that were promised, then the finished ones."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from fluxserve.api.context import Context
from fluxserve.api.dialects.openai.answers import COMMENT_SECONDS, body_of, failure
from fluxserve.api.waiting import followed, too_late
from fluxserve.domain.errors import NotFound, Unavailable
from fluxserve.domain.task import Output, State, Task


async def events(context: Context, task: Task, name: str) -> AsyncIterator[str]:
    """`name` is "image_generation" or "image_edit"."""
    promised, sent = task.generation.previews, list[bytes]()
    began = spoken_at = time.monotonic()
    async with aclosing(followed(context.queue, task)) as looks:
        async for seen in looks:
            task = seen or task
            look = await _look(context, task) if seen and promised and task.state is State.PROCESSING else None
            if look and look not in sent and len(sent) < promised:
                yield _event(f"{name}.partial_image", task, look, {"partial_image_index": len(sent)})
                sent.append(look)
            elif time.monotonic() - spoken_at > COMMENT_SECONDS:
                yield ": nothing new\n\n"
            else:
                if time.monotonic() - began > context.wait_seconds and not task.state.is_final:
                    yield _error(body_of(too_late(task, context.wait_seconds)))
                    return
                continue
            spoken_at = time.monotonic()
    if task.state is State.FAILED:
        yield _error(failure(task)[0])
        return
    for output in task.outputs:
        data = await asyncio.to_thread(bytes_of, context, output)
        yield _event(f"{name}.completed", task, data, {"usage": answer_of(task)["usage"]})


async def _look(context: Context, task: Task) -> bytes | None:
    try:
        return await context.queue.preview(task.id)
    except Unavailable:
        return None


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
