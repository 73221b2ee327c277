"""The Images API: pictures from words, and from other pictures.

Each request is a task, submitted and waited for; or, where the settings name upstreams for its model, it is relayed.
"""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from fluxserve.api.context import Context
from fluxserve.api.describing import KEY_SCHEMA, body_of, headers
from fluxserve.api.dialects.openai import image_relay
from fluxserve.api.dialects.openai.answers import STREAMED, TASK_ID, failure, sub_app
from fluxserve.api.dialects.openai.image_drawing import Files, to_drawing
from fluxserve.api.dialects.openai.image_requests import MOST_IMAGES, Asked, EditImage, GenerateImage, form_schema
from fluxserve.api.dialects.openai.image_stream import answer_of, events, in_base64
from fluxserve.api.dialects.openai.relayed import relayed
from fluxserve.api.reading import Form, caller_of, checked, object_in, read_bytes, read_form, repeatable_of
from fluxserve.api.repeats import InHand
from fluxserve.api.submitting import submit
from fluxserve.api.waiting import NOBODY_HEARS, HungUp, held_until_ended, told_meanwhile
from fluxserve.domain.errors import InvalidInput
from fluxserve.domain.task import Repeatable, State, Submission, Task
from fluxserve.tasks import Caller

ABOUT = """Send your key as `Authorization: Bearer` or as `X-API-Key`. The models are `gpt-image-1`, `gpt-4o-image` and
the names of FLUX's own. Pictures are always answered as base64."""
PICTURES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The pictures; with `stream`, looks at each and the pictures in events",
        "headers": {TASK_ID: {"schema": {"type": "string"}, "description": "the task's id"}},
        "content": {
            "text/event-stream": {},
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["created", "data"],
                    "properties": {
                        "created": {"type": "integer"},
                        "data": {
                            "type": "array",
                            "items": {"type": "object", "properties": {"b64_json": {"type": "string"}}},
                        },
                        **{name: {"type": "string"} for name in ("background", "output_format", "quality", "size")},
                        "usage": {"type": "object"},
                    },
                }
            },
        },
    }
}


def create_images_app(context: Context) -> FastAPI:
    """The sub-application for everything under /v1/images."""
    app = sub_app("OpenAI's Images API", ABOUT)
    switchboard, in_hand = context.switchboard, InHand()

    @app.post(
        "/generations",
        summary="Pictures from words",
        response_class=Response,
        responses=PICTURES,
        openapi_extra=body_of(GenerateImage) | headers(Idempotency_Key=KEY_SCHEMA),
    )
    async def generate(request: Request) -> Response:
        caller = await caller_of(request, context)
        body = await read_bytes(request, context.largest_body)
        values = object_in(body)
        repeatable = repeatable_of(request, values)
        if route := image_relay.route_of(switchboard.relay, values):
            call = image_relay.generation(route, body, values)
            return await relayed(switchboard, call, request, caller, repeatable)
        return await drawn(request, caller, checked(GenerateImage, values), None, repeatable)

    @app.post(
        "/edits",
        summary="Pictures from others: changed as the words say, or drawn where a mask is transparent",
        response_class=Response,
        responses=PICTURES,
        openapi_extra=form_schema() | headers(Idempotency_Key=KEY_SCHEMA),
    )
    async def edit(request: Request) -> Response:
        caller = await caller_of(request, context)
        form = await read_form(request, context.largest_body)
        repeatable = repeatable_of(request, form.digest())
        if route := image_relay.route_of(switchboard.relay, form.texts):
            return await relayed(switchboard, image_relay.edit(route, form), request, caller, repeatable)
        return await drawn(request, caller, checked(EditImage, form.texts), _files(form), repeatable)

    async def drawn(
        request: Request, caller: Caller, asked: Asked, files: Files | None, repeatable: Repeatable | None
    ) -> Response:
        asked.check()
        with in_hand.taking(caller.account_id, repeatable):
            task = await context.queue.made_before(caller.account_id, repeatable) if repeatable else None
            if task is None:
                task = await made(asked, files, caller, repeatable)
        if asked.stream:
            looks = events(context, task, "image_edit" if files else "image_generation")
            told = told_meanwhile(request, context.queue, task, looks)
            return StreamingResponse(told, media_type="text/event-stream", headers={**STREAMED, TASK_ID: task.id})
        try:
            task = await held_until_ended(request, context.queue, task, context.wait_seconds)
        except HungUp:
            return Response(status_code=NOBODY_HEARS)
        return await answer(task)

    async def made(asked: Asked, files: Files | None, caller: Caller, repeatable: Repeatable | None) -> Task:
        drawing = await to_drawing(asked, files, caller.account_id, context.inputs, context.qualities)
        submission = Submission(
            account_id=caller.account_id,
            request={
                "model": asked.drawn_model,
                "task_type": "edit" if files else "generation",
                "config": {"service_mode": "", "webhook_config": {"endpoint": "", "secret": ""}},
                "input": {"prompt": asked.prompt},
                "answer": drawing.answer,
            },
            generation=drawing.generation,
            api_key_id=caller.key_id,
            repeatable=repeatable,
            product=drawing.product,
        )
        return await submit(context, submission)

    async def answer(task: Task) -> Response:
        if task.state is State.FAILED:
            said, status = failure(task)
            return JSONResponse(said, status, {TASK_ID: task.id})
        return JSONResponse(
            {
                "created": int(task.created_at),
                **answer_of(task),
                "data": [{"b64_json": await in_base64(context, output)} for output in task.outputs],
            },
            headers={TASK_ID: task.id},
        )

    return app


def _files(form: Form) -> Files:
    """Raises `InvalidInput`."""
    images = [*form.files.get("image", ()), *form.files.get("image[]", ())]
    masks = form.files.get("mask", [])
    if not 1 <= len(images) <= MOST_IMAGES:
        raise InvalidInput("image", f"{len(images)} files", f"allowed are 1 to {MOST_IMAGES}, as image or image[]")
    if len(masks) > 1:
        raise InvalidInput("mask", f"{len(masks)} files", "allowed is one")
    return Files(tuple(image.data for image in images), masks[0].data if masks else None)
