"""The door itself: chat completions, and the models that there are."""

import asyncio
import time
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from fluxserve.api.context import Context
from fluxserve.api.describing import KEY_SCHEMA, body_of, headers
from fluxserve.api.dialects.openai.answers import TASK_ID, Refusal, sub_app
from fluxserve.api.dialects.openai.chat_pictures import MODEL, drawn, submitted
from fluxserve.api.dialects.openai.chat_requests import ChatRequest, read
from fluxserve.api.dialects.openai.image_requests import OWN_MODELS
from fluxserve.api.dialects.openai.relayed import relayed
from fluxserve.api.reading import caller_of, read_bytes, repeatable_of
from fluxserve.api.repeats import InHand
from fluxserve.domain.catalog import MODELS
from fluxserve.domain.errors import UnknownModel

LARGE_BYTES = 2**18  # of a body that takes a while to be looked through

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
    switchboard, began, in_hand = context.switchboard, int(time.time()), InHand()

    drawn_here = [name for name, model in MODELS.items() if model.member in context.abilities]
    names = tuple(dict.fromkeys([*switchboard.relay.models, *OWN_MODELS, *drawn_here]))

    @app.get("/models", summary="The models that there are")
    async def models(request: Request) -> JSONResponse:
        await caller_of(request, context)
        return JSONResponse({"object": "list", "data": [told_of(name) for name in names]})

    @app.get("/models/{model:path}", summary="One of them")
    async def model(model: str, request: Request) -> JSONResponse:
        await caller_of(request, context)
        if model not in names:
            raise UnknownModel(model)
        return JSONResponse(told_of(model))

    def told_of(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": began, "owned_by": "fluxserve"}

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
        if asked.request.model == MODEL and switchboard.relay.find(MODEL) is None:
            with in_hand.taking(caller.account_id, repeatable):
                task = await submitted(context, caller, asked.request.messages, repeatable)
            return await drawn(context, request, task, is_stream=asked.is_stream)
        call = asked.call(switchboard.relay.route(asked.request.model))
        return await relayed(switchboard, call, request, caller, repeatable)

    return app
