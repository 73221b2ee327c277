"""What all of this dialect's sub-applications share: how refusals and faults are answered."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from fluxserve import __version__
from fluxserve.api.describing import Keyed, refusals
from fluxserve.api.dialects.piapi.answers import STATUSES
from fluxserve.domain.errors import FluxserveError, TryLater, Unavailable, shown


class Refusal(BaseModel):
    """What is answered in place of what was asked for."""

    code: int = Field(description="the HTTP status")
    data: None
    message: str = Field(description="the field, its value and what is allowed")


def sub_app(title: str, about: str) -> FastAPI:
    """One without routes as yet."""
    app = Keyed(title=f"fluxserve: {title}", version=__version__, description=about, responses=refusals(Refusal))

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
    headers = {"Retry-After": str(error.retry_after)} if isinstance(error, (TryLater, Unavailable)) else {}
    return _refusal(status, error.message, headers)


async def no_route(request: Request, error: HTTPException) -> JSONResponse:
    """The answer to a path or a method that there is not."""
    return _refusal(
        error.status_code, f"{request.method} {shown(request.url.path)}: {error.detail}", error.headers or {}
    )


def _refusal(status: int, message: str, headers: Any) -> JSONResponse:
    return JSONResponse({"code": status, "data": None, "message": message}, status, headers=dict(headers))
