"""How refusals and faults are answered: OpenAI's error object, and the statuses by which its SDKs choose exceptions."""

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
    TooMany,
    TooSlow,
    TryLater,
    Unauthorized,
    Unavailable,
    WrongHost,
    WrongOrigin,
    shown,
)
from fluxserve.domain.task import Task

STATUSES: dict[type[FluxserveError], int] = {
    Unauthorized: 401,
    WrongOrigin: 403,
    NotFound: 404,
    TooSlow: 408,
    InFlight: 409,
    TooLarge: 413,
    WrongHost: 421,
    KeyReused: 422,
    NotEnoughCredits: 429,  # as OpenAI has it: its code tells it from a rate
    TooMany: 429,
    Refused: 400,
    Unavailable: 503,
    NotYet: 504,
    FluxserveError: 500,
}
CODES: dict[type[FluxserveError], str] = {
    Unauthorized: "invalid_api_key",
    NotEnoughCredits: "insufficient_quota",
    TooMany: "rate_limit_exceeded",
    NotYet: "timeout",
}
# OpenAI's SDKs send again what was answered with 409, 429 or 5xx. It would change nothing, or make a second task.
NOT_AGAIN = (NotEnoughCredits, NotYet)


class Error(BaseModel):
    message: str = Field(description="the field, its value and what is allowed")
    type: str = Field(description="invalid_request_error, insufficient_quota, rate_limit_error, server_error and so on")
    param: str | None = Field(description="the field that it is about")
    code: str | None = Field(description="a name for what is wrong")


class Refusal(BaseModel):
    """What is answered in place of what was asked for."""

    error: Error


def openai_app(title: str, about: str) -> FastAPI:
    """One without routes as yet."""
    app = Keyed(title=f"fluxserve: {title}", version=__version__, description=about, responses=refusals(Refusal))

    @app.exception_handler(FluxserveError)
    async def refuse(_request: Request, error: FluxserveError) -> JSONResponse:
        return refusal(error)

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> JSONResponse:
        message = f"{request.method} {shown(request.url.path)}: {error.detail}"
        return JSONResponse(
            {"error": error_object(message, "invalid_request_error", code="unknown_url")},
            error.status_code,
            error.headers,
        )

    @app.exception_handler(Exception)
    async def our_fault(_request: Request, _error: Exception) -> JSONResponse:
        message = "the server has a fault; it is in its log"
        return JSONResponse({"error": error_object(message, "server_error", code="server_error")}, 500)

    return app


def refusal(error: FluxserveError) -> JSONResponse:
    """The answer that tells `error`."""
    status = next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)
    headers = {"Retry-After": str(error.retry_after)} if isinstance(error, (TryLater, Unavailable)) else {}
    if isinstance(error, NOT_AGAIN):
        headers["x-should-retry"] = "false"
    return JSONResponse({"error": error_of(error)}, status, headers)


def error_of(error: FluxserveError) -> dict[str, Any]:
    status = next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)
    kind = {401: "invalid_request_error", 429: "rate_limit_error"}.get(status) or (
        "server_error" if status >= 500 else "invalid_request_error"
    )
    if isinstance(error, NotEnoughCredits):
        kind = "insufficient_quota"
    code = next((CODES[each] for each in type(error).__mro__ if each in CODES), error.code)
    return error_object(error.message, kind, param=error.field if isinstance(error, InvalidInput) else None, code=code)


def failure(task: Task) -> tuple[dict[str, Any], int]:
    """The error of a task that failed, and its status: what was flagged is the caller's to change."""
    message = f"{task.error_message} (task {task.id}; nothing was charged)"
    match task.error_code:
        case Flagged.code:
            return error_object(message, "image_generation_user_error", code="moderation_blocked"), 400
        case CancelledByCaller.code:
            return error_object(message, "invalid_request_error", code=task.error_code), 400
        case code:
            return error_object(message, "server_error", code=code), 500


def error_object(message: str, kind: str, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    return {"message": message, "type": kind, "param": param, "code": code}
