"""The door itself: chat completions, and the models that there are."""

import asyncio
import time
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from fluxserve.api.chat import CallerLeft, Talk
from fluxserve.api.context import Context
from fluxserve.api.describing import KEY_SCHEMA, body_of, headers
from fluxserve.api.dialects.openai.answers import Refusal, sub_app
from fluxserve.api.dialects.openai.answers import refusal as refused
from fluxserve.api.dialects.openai.chat_pictures import MODEL, drawn, submitted
from fluxserve.api.dialects.openai.chat_requests import ChatRequest, read
from fluxserve.api.dialects.openai.chat_stream import COMMENT_SECONDS, StreamedCompletion
from fluxserve.api.dialects.openai.image_requests import OWN_MODELS
from fluxserve.api.reading import caller_of, read_bytes, repeatable_of
from fluxserve.api.repeats import InHand
from fluxserve.domain.catalog import MODELS
from fluxserve.domain.errors import InvalidInput, TooMany, UpstreamsFailed
from fluxserve.relay import Answer, Stream

LARGE_BYTES = 2**18  # of a body that takes a while to be looked through
TASK_ID = "x-task-id"
NOBODY_HEARS = 499  # the status of an answer whose caller has left

ABOUT = """Send your key as `Authorization: Bearer` or as `X-API-Key`.

Refusals have OpenAI's form, `{"error": {"message", "type", "param", "code"}}`, and its statuses, so that its client
libraries raise the exceptions that programs know.
"""
CHAT_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {}},
        "description": "What the upstream answers, as it came; with `stream`, in events",
        "headers": {TASK_ID: {"schema": {"type": "string"}, "description": "the id to fetch it by again"}},
    },
    **{
        status: {"model": Refusal, "description": why}
        for status, why in {
            404: "There is no such model",
            409: "The same request is being answered; ask again after Retry-After seconds",
            413: "The body is too large",
            422: "The Idempotency-Key came before with another body",
            429: "The account can't pay what it may cost, or asks too often: `code` tells which",
            503: "Nobody who answers for the model does so just now",
        }.items()
    },
}


def create_chat_app(context: Context) -> FastAPI:
    """The sub-application for everything under /v1."""
    app = sub_app("OpenAI's API", ABOUT)
    chat, began, in_hand = context.chat, int(time.time()), InHand()

    @app.get("/models", summary="The models that there are")
    async def models(request: Request) -> JSONResponse:
        await caller_of(request, context)
        names = dict.fromkeys([*chat.relay.models, *OWN_MODELS, *MODELS])
        data = [{"id": name, "object": "model", "created": began, "owned_by": "fluxserve"} for name in names]
        return JSONResponse({"object": "list", "data": data})

    @app.post(
        "/chat/completions",
        summary="Answer a conversation",
        response_class=StreamingResponse,
        responses=CHAT_RESPONSES,
        openapi_extra=body_of(ChatRequest) | headers(Idempotency_Key=KEY_SCHEMA),
    )
    async def complete(request: Request) -> Response:
        caller = await caller_of(request, context)
        body = await read_bytes(request, context.largest_body)
        asked = await asyncio.to_thread(read, body) if len(body) > LARGE_BYTES else read(body)
        repeatable = repeatable_of(request, asked.values)
        if asked.request.model == MODEL and MODEL not in chat.relay.models:
            with in_hand.taking(caller.account_id, repeatable):
                task = await submitted(context, caller, asked.request.messages, repeatable)
            return await drawn(context, request, task, is_stream=asked.is_stream)
        if repeatable and asked.is_stream:
            raise InvalidInput("Idempotency-Key", repeatable.key, "allowed is one without stream")
        order = asked.order(chat.relay.route)
        most = asked.most_output(order.route.most_output_tokens)
        talk = await chat.begin(order, asked.prompt, most, caller, repeatable)
        # What has a key is asked for again by its caller, so it goes on though they leave.
        return await _answered(talk, request, is_stream=asked.is_stream, can_leave=repeatable is None)

    return app


async def _answered(talk: Talk, request: Request, *, is_stream: bool, can_leave: bool) -> Response:
    told = {TASK_ID: talk.completion.id}
    opened: Answer | Stream | None
    if (opened := talk.answer_before()) is None:
        try:
            opened = await talk.opened(
                request.receive if can_leave else None, patience=COMMENT_SECONDS if is_stream else None
            )
        except CallerLeft:
            await talk.give_up()
            return Response(status_code=NOBODY_HEARS)
        except (UpstreamsFailed, TooMany) as error:
            await talk.fail(error)
            return refused(error, **told)
        except BaseException:
            await talk.abandon()
            raise
    if not isinstance(opened, Answer):
        return StreamedCompletion(talk, opened, told)
    await talk.end_with(opened)
    return Response(opened.data, opened.status, {**told, "Content-Type": opened.content_type})
