"""The door itself: create a task, poll it, cancel it.

A request is checked in three steps: its shape (`requests`), its values by the catalogue's row for the model, and last
the pictures that it may bring, which cost most (both in `generations`).
"""

import secrets
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from fluxserve import __version__
from fluxserve.api.context import Context
from fluxserve.api.dialects.piapi.answers import ERROR_CODES, STATUSES, echo_of, envelope
from fluxserve.api.dialects.piapi.generations import to_generation
from fluxserve.api.dialects.piapi.requests import CreateTask, offered_types, read
from fluxserve.api.reading import account_of, read_body
from fluxserve.domain.errors import CancelledByCaller, FluxserveError, Refused, TooMany, shown
from fluxserve.domain.generation import images_of
from fluxserve.domain.task import Output, State


def create_app(context: Context) -> FastAPI:
    """The sub-application for everything under /api."""
    app = FastAPI(title="fluxserve: PiAPI's task API", version=__version__, description=_about())

    def picture_url(output: Output) -> str:
        return context.picture_url(output.id, output.key)

    @app.post("/v1/task", summary="Create a task", openapi_extra=_body_schema(context.abilities))
    async def create(request: Request) -> JSONResponse:
        account_id = await account_of(request, context)
        asked = read(await read_body(request, context.largest_body), context.abilities)
        generation = await to_generation(asked, account_id, context.inputs, context.lora_names(), _random_seed)
        try:
            task = await context.queue.submit(account_id, echo_of(asked), generation)
        except FluxserveError:
            await context.inputs.discard(images_of(generation))
            raise
        return JSONResponse(envelope(task, picture_url))

    @app.get("/v1/task/{task_id}", summary="Get a task")
    async def get(task_id: str, request: Request) -> JSONResponse:
        account_id = await account_of(request, context)
        return JSONResponse(envelope(await context.queue.get(account_id, task_id), picture_url))

    @app.delete("/v1/task/{task_id}", summary="Cancel a task, waiting or being drawn")
    async def cancel(task_id: str, request: Request) -> JSONResponse:
        account_id = await account_of(request, context)
        task = await context.queue.cancel(account_id, task_id)
        if task.state is State.COMPLETED or (task.state is State.FAILED and task.error_code != CancelledByCaller.code):
            raise Refused(f"task {task_id} can't be canceled: it is {task.state} already")
        return JSONResponse({"code": 200, "message": f"task {task_id} canceled"})

    @app.exception_handler(FluxserveError)
    async def refuse(_request: Request, error: FluxserveError) -> JSONResponse:
        return refusal(error)

    app.add_exception_handler(HTTPException, no_route)  # type: ignore[arg-type]

    @app.exception_handler(Exception)
    async def our_fault(_request: Request, _error: Exception) -> JSONResponse:
        return _refusal(500, "the server has a fault; it is in its log", {})

    return app


def refusal(error: FluxserveError) -> JSONResponse:
    """The answer that tells `error`."""
    status = next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)
    headers = {"Retry-After": str(error.retry_after)} if isinstance(error, TooMany) else {}
    return _refusal(status, error.message, headers)


async def no_route(request: Request, error: HTTPException) -> JSONResponse:
    """The answer to a path or a method that there is not."""
    return _refusal(
        error.status_code, f"{request.method} {shown(request.url.path)}: {error.detail}", error.headers or {}
    )


def _refusal(status: int, message: str, headers: Any) -> JSONResponse:
    return JSONResponse({"code": status, "data": None, "message": message}, status, headers=dict(headers))


def _random_seed() -> int:
    """Small enough for every client's integers."""
    return secrets.randbelow(2**31)


def _body_schema(abilities: frozenset[str]) -> dict[str, Any]:
    """The body's schema for the API's pages: the handler reads the body itself, so that no bad one can be a 500."""
    schema = CreateTask.model_json_schema(ref_template="#/$defs/{model}")
    offered = list(offered_types(abilities))
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

    return {"requestBody": {"required": True, "content": {"application/json": {"schema": inline(schema)}}}}


def _about() -> str:
    rows = "\n".join(f"| {number} | {code} |" for code, number in ERROR_CODES.items())
    return f"""Send your key as `X-API-Key` or as `Authorization: Bearer`.

A request that is refused has an HTTP status of 4xx and a message that names the field, the value and what is allowed.
A task that fails is HTTP 200 with status `failed`; its `error.code` is one of

| code | meaning |
| --- | --- |
{rows}
"""
