"""gpt-4o-image by chat completions: the answer is a picture, and words that tell how far it is."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from fluxserve.api.context import Context
from fluxserve.api.dialects.openai.answers import COMMENT_SECONDS, STREAMED, TASK_ID
from fluxserve.api.dialects.openai.chat_wishes import Wish, wish_of
from fluxserve.api.dialects.openai.image_drawing import EDITED_BY, nearest_size
from fluxserve.api.dialects.openai.image_requests import SIZES
from fluxserve.api.dialects.openai.image_stream import bytes_of
from fluxserve.api.dialects.openai.usage import input_tokens, output_tokens, text_tokens
from fluxserve.api.submitting import seed_of, submit
from fluxserve.api.waiting import NOBODY_HEARS, HungUp, followed, held_until_ended, told_meanwhile, too_late
from fluxserve.domain.catalog import MODELS, USUAL, Quality
from fluxserve.domain.generation import Edit, Generation, Kind, TextToImage
from fluxserve.domain.task import Repeatable, State, Submission, Task
from fluxserve.tasks import Caller

MODEL = "gpt-4o-image"
QUALITY: Quality = "medium"


async def submitted(
    context: Context, caller: Caller, messages: Sequence[Mapping[str, Any]], repeatable: Repeatable | None
) -> Task:
    """What a conversation comes to, to be drawn by the engine of this server. Raises `InvalidInput`."""
    task = await context.queue.made_before(caller.account_id, repeatable) if repeatable else None
    return task or await _made(context, caller, wish_of(messages), repeatable)


async def drawn(context: Context, request: Request, task: Task, *, is_stream: bool) -> Response:
    """The answer that tells of it."""
    told = {TASK_ID: task.id}
    if is_stream:
        chunks = told_meanwhile(request, context.queue, task, _chunks(context, task))
        return StreamingResponse(chunks, media_type="text/event-stream", headers={**STREAMED, **told})
    try:
        task = await held_until_ended(request, context.queue, task, context.wait_seconds)
    except HungUp:
        return Response(status_code=NOBODY_HEARS)
    message: dict[str, Any] = {"role": "assistant", "content": _words(context, task)}
    if task.outputs:
        message["images"] = [await _image(context, task)]
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    answer = {**_head(task, "chat.completion"), "choices": [choice], "usage": task.request["usage"]}
    return JSONResponse(answer, headers=told)


async def _made(context: Context, caller: Caller, wish: Wish, repeatable: Repeatable | None) -> Task:
    size, seen = SIZES[0], 0
    means = context.qualities[QUALITY]
    kind: Kind = TextToImage(wish.prompt)
    guidance = MODELS[means.model].guidance(None)
    model, steps = means.model, means.steps
    if wish.images:
        picture = await context.inputs.take(caller.account_id, "messages", *wish.images)
        kind, size = Edit(wish.prompt, picture.key), nearest_size(picture.width, picture.height)
        seen = input_tokens(picture.width, picture.height)
        model, usual = EDITED_BY, USUAL["edit"]
        steps, guidance = MODELS[model].steps(usual.steps), MODELS[model].guidance(None, usual.guidance_scale)
    generation = Generation(
        model=model,
        kind=kind,
        width=size[0],
        height=size[1],
        steps=steps,
        guidance_scale=guidance,
        seed=seed_of(None),
    )
    read, made = text_tokens(wish.prompt) + seen, output_tokens(QUALITY, *size)
    submission = Submission(
        account_id=caller.account_id,
        request={
            "model": MODEL,
            "task_type": "chat",
            "config": {"service_mode": "", "webhook_config": {"endpoint": "", "secret": ""}},
            "input": {"prompt": wish.prompt},
            "usage": {"prompt_tokens": read, "completion_tokens": made, "total_tokens": read + made},
        },
        generation=generation,
        api_key_id=caller.key_id,
        repeatable=repeatable,
        product=MODEL,
    )
    return await submit(context, submission)


async def _chunks(context: Context, task: Task) -> AsyncIterator[str]:
    yield _chunk(task, {"role": "assistant", "content": ""})
    said, began = "", time.monotonic()
    spoken_at = began
    async with aclosing(followed(context.queue, task)) as looks:
        async for look in looks:
            task = look or task
            if not task.state.is_final and (news := _progress(task)) != said:
                said = news
                yield _chunk(task, {"content": news})
            elif time.monotonic() - spoken_at > COMMENT_SECONDS:
                yield ": still here\n\n"
            else:
                if time.monotonic() - began > context.wait_seconds and not task.state.is_final:
                    yield _chunk(task, {"content": _failure(too_late(task, context.wait_seconds).message)})
                    break
                continue
            spoken_at = time.monotonic()
    if task.state.is_final:
        yield _chunk(task, {"content": _words(context, task)})  # whole: programs look for it in the raw text
        if task.outputs:
            yield _chunk(task, {"images": [await _image(context, task)]})
    yield _chunk(task, {}, finish="stop")
    yield _data({**_head(task, "chat.completion.chunk"), "choices": [], "usage": task.request["usage"]})
    yield "data: [DONE]\n\n"


def _progress(task: Task) -> str:
    if task.state is not State.PROCESSING:
        return "> in the queue\n"
    return f"> drawing: step {task.step} of {task.steps}\n" if task.step and task.steps else "> drawing\n"


def _words(context: Context, task: Task) -> str:
    """The picture's address, or why there is none."""
    if task.outputs:
        return f"\n![picture]({context.picture_url(task.outputs[0].id, task.outputs[0].key)})\n"
    return _failure(task.error_message or "it failed")


def _failure(reason: str) -> str:
    suggestion = "say it in other words, or try again; nothing was charged"
    return f"\nGeneration failed\nReason: {reason}\nSuggestion: {suggestion}\n"


async def _image(context: Context, task: Task) -> dict[str, Any]:
    output = task.outputs[0]
    data = base64.b64encode(await asyncio.to_thread(bytes_of, context, output)).decode()
    return {"type": "image_url", "image_url": {"url": f"data:{output.content_type};base64,{data}"}}


def _chunk(task: Task, delta: dict[str, Any], finish: str | None = None) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return _data({**_head(task, "chat.completion.chunk"), "choices": [choice]})


def _head(task: Task, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{task.id}", "object": kind, "created": int(task.created_at), "model": MODEL}


def _data(values: dict[str, Any]) -> str:
    return f"data: {json.dumps(values, ensure_ascii=False)}\n\n"
