"""What goes out when something is refused: OpenAI's error object, with the status and the words that its client
libraries make their exceptions of.
"""

import json
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from fluxserve import __version__
from fluxserve.api.describing import Keyed, refusals
from fluxserve.domain.errors import (
    CancelledByCaller,
    Flagged,
    FluxserveError,
    InFlight,
    InvalidInput,
    KeyReused,
    NotEnoughCredits,
    NotFound,
    NotYet,
    Refused,
    TooLarge,
    TooSlow,
    TryLater,
    Unauthorized,
    Unavailable,
    UnknownModel,
    WrongHost,
    WrongOrigin,
    shown,
)
from fluxserve.domain.task import Task

TASK_ID = "x-task-id"
STREAMED = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
COMMENT_SECONDS = 15.0  # of nothing to tell, after which proxies might think that nobody is there

INVALID, OURS, LIMIT, QUOTA = "invalid_request_error", "server_error", "rate_limit_error", "insufficient_quota"


@dataclass(frozen=True, slots=True)
class Kind:
    """How a refusal of ours is told: the status decides which exception a client library raises."""

    status: int
    type: str
    code: str | None = None


KINDS: dict[type[FluxserveError], Kind] = {
    InvalidInput: Kind(400, INVALID, "invalid_value"),
    Unauthorized: Kind(401, INVALID, "invalid_api_key"),
    # As OpenAI has it: programs look for this code among what their rate limits raise.
    NotEnoughCredits: Kind(429, QUOTA, QUOTA),
    WrongOrigin: Kind(403, INVALID, "origin_not_allowed"),
    UnknownModel: Kind(404, INVALID, "model_not_found"),
    NotFound: Kind(404, INVALID, "not_found"),
    TooSlow: Kind(408, INVALID, "request_timeout"),
    InFlight: Kind(409, INVALID, "idempotency_key_in_use"),
    TooLarge: Kind(413, INVALID, "request_too_large"),
    WrongHost: Kind(421, INVALID, "host_not_allowed"),
    KeyReused: Kind(422, INVALID, "idempotency_key_reused"),
    TryLater: Kind(429, LIMIT, "rate_limit_exceeded"),
    Refused: Kind(400, INVALID),
    Unavailable: Kind(503, OURS, "unavailable"),
    NotYet: Kind(504, OURS, "timeout"),
}
# OpenAI's SDKs send again what was answered with 409, 429 or 5xx. It would change nothing, or make a second task.
NOT_AGAIN = (NotEnoughCredits, NotYet)


class Error(BaseModel):
    message: str = Field(description="the field, its value and what is allowed")
    type: str = Field(description="what kind of error it is")
    param: str | None = Field(description="the field")
    code: str | None = Field(description="what it is, for programs")


class Refusal(BaseModel):
    """What is answered in place of what was asked for."""

    error: Error


def sub_app(title: str, about: str) -> FastAPI:
    """One without routes as yet."""
    app = Keyed(title=f"fluxserve: {title}", version=__version__, description=about, responses=refusals(Refusal))

    @app.exception_handler(FluxserveError)
    async def refuse(_request: Request, error: FluxserveError) -> JSONResponse:
        return refusal(error)

    app.add_exception_handler(HTTPException, no_route)  # type: ignore[arg-type]

    @app.exception_handler(Exception)
    async def our_fault(_request: Request, _error: Exception) -> JSONResponse:
        return JSONResponse(error_body("the server has a fault; it is in its log", Kind(500, OURS)), 500)

    return app


def refusal(error: FluxserveError, **headers: str) -> JSONResponse:
    """The answer that tells `error`."""
    kind = kind_of(error)
    if isinstance(error, (TryLater, Unavailable)):
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, NOT_AGAIN):
        headers["x-should-retry"] = "false"
    return JSONResponse(body_of(error), kind.status, headers)


def kind_of(error: FluxserveError) -> Kind:
    return next(KINDS[each] for each in type(error).__mro__ if each in KINDS)


def body_of(error: FluxserveError) -> dict[str, Any]:
    param = error.field if isinstance(error, InvalidInput) else "model" if isinstance(error, UnknownModel) else None
    return error_body(error.message, kind_of(error), param)


def error_body(message: str, kind: Kind, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind.type, "param": param, "code": kind.code}}


def failure(task: Task) -> tuple[dict[str, Any], int]:
    """What is answered for a task that failed, and the status: what was flagged is the caller's to change."""
    message = f"{task.error_message} (task {task.id}; nothing was charged)"
    match task.error_code:
        case Flagged.code:
            kind = Kind(400, "image_generation_user_error", "moderation_blocked")
        case CancelledByCaller.code:
            kind = Kind(400, INVALID, CancelledByCaller.code)
        case code:
            kind = Kind(500, OURS, code)
    return error_body(message, kind), kind.status


def error_event(error: FluxserveError) -> bytes:
    """The same within a stream, whose status has been sent."""
    return b"data: " + json.dumps(body_of(error)).encode() + b"\n\n"


async def no_route(request: Request, error: HTTPException) -> JSONResponse:
    """The answer to a path or a method that there is not."""
    told = f"{request.method} {shown(request.url.path)}: {error.detail}"
    return JSONResponse(
        error_body(told, Kind(error.status_code, INVALID, "unknown_url")), error.status_code, error.headers
    )
