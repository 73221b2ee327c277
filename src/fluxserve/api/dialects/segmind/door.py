"""The door itself: flux-fill-dev, waited for (v1) or polled (v2), and the account's credits.

Its paths stand beside those of other doors under /v1, so it is given the requests for them as they are, by `PATHS`.
"""

import asyncio
import base64
import re
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from fluxserve import __version__
from fluxserve.api.context import Context
from fluxserve.api.describing import CREATE_HEADERS, Keyed, Refusal, body, refusals
from fluxserve.api.dialects.segmind.answers import (
    HEADERS,
    MODEL,
    echo_of,
    failure,
    headers_of,
    no_route,
    our_fault,
    refusal,
    result,
    status,
    submitted,
)
from fluxserve.api.dialects.segmind.generations import to_generation
from fluxserve.api.dialects.segmind.requests import Fill, form_schema, form_values, json_schema, read
from fluxserve.api.reading import caller_of, deadline_of, read_body, read_form, repeatable_of
from fluxserve.api.repeats import InHand
from fluxserve.api.submitting import submit
from fluxserve.api.waiting import NOBODY_HEARS, HungUp, held_until_ended
from fluxserve.domain.credits import usd
from fluxserve.domain.errors import FluxserveError, NotFound, shown
from fluxserve.domain.task import Output, Repeatable, State, Submission, Task
from fluxserve.tasks import Caller

# Under /v1 these are OpenAI's, as is all that has more parts. What else is there may be a model of Segmind's.
OPENAIS = (
    r"docs|openapi\.json|redoc|"
    "assistants|batches|chat|completions|containers|conversations|embeddings|evals|files|images|models|moderations|"
    "responses|threads|uploads|vector_stores|videos"
)
PATHS = re.compile(rf"/segmind/.*|/v1/(?!(?:{OPENAIS})/?\Z)[^/]+/?|/v1/requests/.*|/v2(/.*)?", re.DOTALL)
FAILED = 422

ABOUT = """Send your key as `x-api-key`. What is refused has an HTTP status and `{"error": "…"}`, which names the field,
the value and what is allowed. Credits are US dollars."""
TOLD = {name: {"description": meaning, "schema": {"type": "string"}} for name, meaning in HEADERS.items()}
PICTURES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The first picture; as JSON `image`, or `images` if there are several, in base64",
        "headers": TOLD,
        "content": {
            **{f"image/{kind}": {"schema": {"type": "string", "format": "binary"}} for kind in ("jpeg", "png", "webp")},
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "image": {"type": "string"},
                        "images": {"type": "array", "items": {"type": "string"}},
                    },
                }
            },
        },
    }
}
CREDITS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "What the account can still spend",
        "content": {
            "application/json": {
                "schema": {"type": "object", "required": ["credits"], "properties": {"credits": {"type": "number"}}}
            }
        },
    }
}
CREATING = body(json_schema(), form_schema()) | CREATE_HEADERS


def create_app(context: Context) -> FastAPI:
    """The application for `PATHS`."""
    app = _app(context)
    in_hand = InHand()

    # ------------------------------------------------------------ waited for

    @app.post(
        f"/v1/{MODEL}",
        summary="Draw where a picture is masked, and wait for it",
        response_class=Response,
        responses=PICTURES,
        openapi_extra=CREATING,
    )
    async def draw(request: Request) -> Response:
        asked, task = await accepted(request)
        try:
            task = await held_until_ended(request, context.queue, task, context.wait_seconds)
        except HungUp:
            return Response(status_code=NOBODY_HEARS)
        headers = await headers_of(context, task.account_id, task)
        if task.state is State.FAILED:
            return failure(task, headers)
        if asked.base64 or _accepts_only_json(request):
            return await as_json(task, headers)
        (picture,) = await stored(task.outputs[:1])
        return Response(picture, media_type=task.outputs[0].content_type, headers=headers)

    async def as_json(task: Task, headers: dict[str, str]) -> Response:
        texts = [await asyncio.to_thread(_in_base64, picture) for picture in await stored(task.outputs)]
        return JSONResponse({"image": texts[0]} if len(texts) == 1 else {"images": texts}, headers=headers)

    async def stored(outputs: tuple[Output, ...]) -> list[bytes]:
        try:
            return [await asyncio.to_thread(context.shelf.path(output.key).read_bytes) for output in outputs]
        except FileNotFoundError:
            raise NotFound("the pictures of this request have expired") from None

    # ------------------------------------------------------------ polled

    @app.post(
        f"/v2/{MODEL}", summary="Draw where a picture is masked, and be told where to ask", openapi_extra=CREATING
    )
    async def queue(request: Request) -> JSONResponse:
        _, task = await accepted(request)
        headers = await headers_of(context, task.account_id, task)
        return JSONResponse(submitted(task, context.public_url), headers=headers)

    @app.get("/v2/requests/{request_id}/status", summary="How a request stands")
    async def status_of(request_id: str, request: Request) -> JSONResponse:
        task = await found(request, request_id)
        headers = await headers_of(context, task.account_id, task)
        return JSONResponse(status(task, context.public_url), _number(task), headers)

    @app.get("/v2/requests/{request_id}", summary="The pictures of a request; how it stands while there are none")
    @app.get("/v1/requests/{request_id}", summary="The same")
    async def result_of(request_id: str, request: Request) -> JSONResponse:
        task = await found(request, request_id)
        headers = await headers_of(context, task.account_id, task)
        if task.state is not State.COMPLETED:
            return JSONResponse(status(task, context.public_url), _number(task), headers)
        account = await context.accounts.get(task.account_id)
        return JSONResponse(result(task, context, usd(account.balance)), headers=headers)

    async def found(request: Request, request_id: str) -> Task:
        caller = await known(request)
        task = await context.queue.get(caller.account_id, request_id)
        if task.request["model"] != MODEL:
            raise NotFound(f"no request has the id {shown(request_id)}")
        return task

    # ------------------------------------------------------------ credits

    @app.get("/v1/get-user-credits", summary="What the account can still spend, in US$", responses=CREDITS)
    @app.get("/v1/credits", summary="The same", responses=CREDITS)
    async def credits_of(request: Request) -> JSONResponse:
        caller = await known(request)
        account = await context.accounts.get(caller.account_id)
        headers = await headers_of(context, caller.account_id, None)
        return JSONResponse({"credits": usd(account.balance)}, headers=headers)

    # ------------------------------------------------------------ what they have in common

    async def known(request: Request) -> Caller:
        caller = await caller_of(request, context)
        request.state.account_id = caller.account_id  # what is refused from now on is so to this account
        return caller

    async def accepted(request: Request) -> tuple[Fill, Task]:
        """What is asked, and the task that does it."""
        caller = await known(request)
        if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            form = await read_form(request, context.largest_body)
            asked, repeatable = read(form_values(form)), repeatable_of(request, form.digest())
        else:
            values = await read_body(request, context.largest_body)
            asked, repeatable = read(values), repeatable_of(request, values)
        deadline = deadline_of(request)
        with in_hand.taking(caller.account_id, repeatable):
            task = await context.queue.made_before(caller.account_id, repeatable) if repeatable else None
            if task is None:
                task = await made(asked, caller, deadline, repeatable)
        request.state.task = task
        return asked, task

    async def made(asked: Fill, caller: Caller, deadline: float | None, repeatable: Repeatable | None) -> Task:
        submission = Submission(
            account_id=caller.account_id,
            request=echo_of(asked),
            generation=await to_generation(asked, caller.account_id, context.inputs),
            api_key_id=caller.key_id,
            deadline_seconds=deadline,
            repeatable=repeatable,
            product=MODEL,
        )
        return await submit(context, submission)

    return app


def _app(context: Context) -> FastAPI:
    """One without routes as yet: how refusals and faults are answered."""
    app = Keyed(
        title="fluxserve: Segmind's API",
        version=__version__,
        description=ABOUT,
        responses=refusals(Refusal),
        openapi_url="/segmind/openapi.json",
        docs_url="/segmind/docs",
        redoc_url="/segmind/redoc",
        swagger_ui_oauth2_redirect_url=None,
    )

    @app.exception_handler(FluxserveError)
    async def refuse(request: Request, error: FluxserveError) -> JSONResponse:
        account_id, task = getattr(request.state, "account_id", None), getattr(request.state, "task", None)
        return refusal(error, await headers_of(context, account_id, task))

    app.add_exception_handler(HTTPException, no_route)  # type: ignore[arg-type]
    app.add_exception_handler(Exception, our_fault)
    return app


def _accepts_only_json(request: Request) -> bool:
    """Whether the Accept header asks for JSON and leaves no room for a picture: programs that take anything say so."""
    kinds = [each.partition(";")[0].strip().lower() for each in request.headers.get("accept", "").split(",")]
    return "application/json" in kinds and not any(kind == "*/*" or kind.startswith("image/") for kind in kinds)


def _in_base64(picture: bytes) -> str:
    return base64.b64encode(picture).decode()


def _number(task: Task) -> int:
    return FAILED if task.state is State.FAILED else 200
