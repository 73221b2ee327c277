"""The door itself: create tasks, poll them, follow them, cancel them; upload pictures.

A request is checked in three steps: its shape (`requests`), its values by the catalogue's row for the model, and last
the pictures that it may bring, which cost most (both in `generations`).
"""

import secrets
from collections import Counter
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from fluxserve.api.context import Context
from fluxserve.api.describing import CREATE_HEADERS, KEY_SCHEMA, body, body_of, headers, query_of
from fluxserve.api.dialects.piapi.account import history_routes
from fluxserve.api.dialects.piapi.answers import ERROR_CODES, completion_answer, echo_of, envelope
from fluxserve.api.dialects.piapi.deliveries import delivery_routes
from fluxserve.api.dialects.piapi.events import follow
from fluxserve.api.dialects.piapi.generations import to_generation
from fluxserve.api.dialects.piapi.requests import (
    VENDOR,
    Asked,
    CancelQuery,
    CreateTask,
    Upload,
    offered_types,
    read,
)
from fluxserve.api.dialects.piapi.sub_app import Refusal, sub_app
from fluxserve.api.reading import (
    caller_of,
    checked,
    deadline_of,
    query_values,
    read_body,
    repeatable_of,
)
from fluxserve.api.repeats import InHand
from fluxserve.api.submitting import submit
from fluxserve.domain.catalog import MODELS
from fluxserve.domain.errors import CancelledByCaller, NotFound, Refused
from fluxserve.domain.task import Output, Repeatable, State, Submission, Task
from fluxserve.tasks import Caller, Sought

UPLOADS_KEPT_SECONDS = 24 * 3600.0
LARGEST_UPLOAD = 10_000_000

CREATE_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": Refusal, "description": why}
    for status, why in {
        402: "The account can't pay it",
        409: "The same request is being taken in; ask again after Retry-After seconds",
        413: "The body is too large",
        422: "The Idempotency-Key came before with another body",
        429: "The queue is full; ask again after Retry-After seconds",
    }.items()
}
EVENT = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "description": "a number that grows"},
        "event": {"enum": ["progress", "completed", "failed"]},
        "data": {"type": "string", "description": "JSON: how far the task is; at its end what Get task answers"},
    },
}
EVENT_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": EVENT}}, "description": "Events, as they happen"},
    204: {"description": "The end was heard already"},
}


def create_app(context: Context) -> FastAPI:
    """The sub-application for everything under /api."""
    app = sub_app("PiAPI's task API", _about())
    in_hand, followers = InHand(), Counter[str]()

    def picture_url(output: Output) -> str:
        return context.picture_url(output.id, output.key)

    @app.post(
        "/v1/task", summary="Create a task", responses=CREATE_RESPONSES, openapi_extra=_described(context.abilities)
    )
    async def create(request: Request) -> JSONResponse:
        caller = await caller_of(request, context)
        values, deadline = await read_body(request, context.largest_body), deadline_of(request)
        repeatable = repeatable_of(request, values)
        with in_hand.taking(caller.account_id, repeatable):
            task = await context.queue.made_before(caller.account_id, repeatable) if repeatable else None
            if task is None:
                asked = read(values, context.abilities)
                task = await submitted(asked, caller, deadline, repeatable)
        return JSONResponse(envelope(task, picture_url))

    async def submitted(asked: Asked, caller: Caller, deadline: float | None, repeatable: Repeatable | None) -> Task:
        generation = await to_generation(asked, caller.account_id, context.inputs, context.lora_names())
        submission = Submission(
            account_id=caller.account_id,
            request=echo_of(asked),
            generation=generation,
            api_key_id=caller.key_id,
            is_private=asked.is_private,
            webhook=asked.webhook,
            deadline_seconds=deadline,
            repeatable=repeatable,
        )
        return await submit(context, submission)

    @app.get("/v1/task/{task_id}", summary="Get a task, or a chat completion that is kept")
    async def get(task_id: str, request: Request) -> Response:
        caller = await caller_of(request, context)
        try:
            task = await context.queue.get(caller.account_id, task_id)
        except NotFound:
            return completion_answer(await context.switchboard.completions.get(caller.account_id, task_id))
        return JSONResponse(envelope(task, picture_url))

    @app.get(
        "/v1/task/{task_id}/events",
        summary="Follow a task: its status, its steps, and how its picture looks",
        response_class=StreamingResponse,
        responses=EVENT_RESPONSES,
        openapi_extra=headers(Last_Event_ID={"type": "string", "description": "the id of the last event heard"}),
    )
    async def events(task_id: str, request: Request) -> Response:
        caller = await caller_of(request, context)
        last_event_id = request.headers.get("last-event-id", "")
        return await follow(context, followers, caller.account_id, task_id, last_event_id, picture_url)

    @app.delete("/v1/task/{task_id}", summary="Cancel a task, waiting or being drawn")
    async def cancel(task_id: str, request: Request) -> JSONResponse:
        caller = await caller_of(request, context)
        task = await context.queue.cancel(caller.account_id, task_id)
        if task.state is State.COMPLETED or (task.state is State.FAILED and task.error_code != CancelledByCaller.code):
            raise Refused(f"task {task_id} can't be canceled: it is {task.state} already")
        return JSONResponse({"code": 200, "message": f"task {task_id} canceled"})

    @app.delete(
        "/v1/tasks", summary="Cancel all tasks that have not ended, or some", openapi_extra=query_of(CancelQuery)
    )
    async def cancel_all(request: Request) -> JSONResponse:
        caller = await caller_of(request, context)
        query = checked(CancelQuery, query_values(request))
        sought = Sought(model=query.model and query.model.removeprefix(VENDOR), before=query.created_before)
        count = len(await context.queue.cancel_all(caller.account_id, sought))
        return JSONResponse({"code": 200, "message": f"{count} task{'' if count == 1 else 's'} canceled"})

    @app.post(
        "/ephemeral_resource",
        summary="Upload a picture, for a day",
        responses={status: CREATE_RESPONSES[status] for status in (409, 413, 422, 429)},
        openapi_extra=body_of(Upload) | headers(Idempotency_Key=KEY_SCHEMA),
    )
    async def upload(request: Request) -> JSONResponse:
        caller = await caller_of(request, context)
        values = await read_body(request, context.largest_body)
        repeatable = repeatable_of(request, values)
        with in_hand.taking(caller.account_id, repeatable):
            upload_id = await context.queue.uploaded_before(caller.account_id, repeatable) if repeatable else None
            if upload_id is None:
                upload_id = await take_upload(checked(Upload, values), caller, repeatable)
        url = context.picture_url(upload_id, "upload.png")  # as which every one is kept
        return JSONResponse({"code": 200, "data": {"url": url}, "message": "success"})

    async def take_upload(upload: Upload, caller: Caller, repeatable: Repeatable | None) -> str:
        picture = await context.inputs.take_sent(caller.account_id, "file_data", upload.file_data, LARGEST_UPLOAD)
        wanted = secrets.token_hex(16)
        try:
            upload_id = await context.queue.add_upload(
                caller.account_id, wanted, picture.key, UPLOADS_KEPT_SECONDS, repeatable
            )
        except Refused:
            await context.inputs.discard([picture.key])
            raise
        if upload_id != wanted:  # another server took this request in at the same time
            await context.inputs.discard([picture.key])
        return upload_id

    history_routes(app, context, picture_url)
    delivery_routes(app, context)
    return app


def _described(abilities: frozenset[str]) -> dict[str, Any]:
    """A creating request on the API's pages."""
    schema = CreateTask.model_json_schema(ref_template="#/$defs/{model}")
    offered = list(offered_types(abilities))
    schema["properties"]["model"]["enum"] = [VENDOR + name for name in MODELS]
    schema["properties"]["task_type"]["enum"] = [each.name for each in offered]
    definitions = schema.pop("$defs", {})
    kinds = [each.input.model_json_schema(ref_template="#/$defs/{model}") for each in offered]
    for kind in kinds:
        definitions |= kind.pop("$defs", {})
    schema["properties"]["input"] = {"oneOf": kinds}

    def inline(part: Any) -> Any:
        if isinstance(part, dict):
            if "$ref" in part:
                return inline(definitions[part["$ref"].rsplit("/", 1)[-1]])
            return {name: inline(value) for name, value in part.items()}
        return [inline(value) for value in part] if isinstance(part, list) else part

    return body(inline(schema)) | CREATE_HEADERS


def _about() -> str:
    rows = "\n".join(f"| {number} | {code} |" for code, number in ERROR_CODES.items())
    return f"""Send your key as `X-API-Key` or as `Authorization: Bearer`.

A request that is refused has an HTTP status of 4xx and a message that names the field, the value and what is allowed.
A task that fails is HTTP 200 with status `failed`; its `error.code` is one of

| code | meaning |
| --- | --- |
{rows}
"""
