"""The operator's door, at /admin: accounts, keys, credits, webhooks. What the command line does, over HTTP.

The admin key opens it, and no account's key does. Without an admin key in the settings it is closed.
"""

import hmac
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from fluxserve import __version__
from fluxserve.api.context import Context
from fluxserve.api.describing import KEY_SCHEMA, Keyed, Refusal, body_of, headers, refusals
from fluxserve.api.reading import checked, key_of, read_body, repeatable_of
from fluxserve.domain.errors import FluxserveError, KeyReused, NotFound, ShownOnce, TooLarge, Unauthorized, Unavailable

STATUSES: dict[type[FluxserveError], int] = {
    Unauthorized: 401,
    NotFound: 404,
    ShownOnce: 409,
    TooLarge: 413,
    KeyReused: 422,
    Unavailable: 503,
}
REPEATABLE = headers(Idempotency_Key=KEY_SCHEMA)


class Body(BaseModel):
    """Nothing is ignored here: a misspelt limit must not go unnoticed."""

    model_config = ConfigDict(strict=True, extra="forbid")


class NewAccount(Body):
    name: str = Field(description="a text")
    credits_usd: float = Field(0.0, description="a number of US dollars")
    max_concurrent: int = Field(16, description="a whole number of tasks")


class Credit(Body):
    usd: float = Field(description="a number of US dollars, below 0 to take some back")


class Limit(Body):
    max_concurrent: int = Field(description="a whole number of tasks")


class NewKey(Body):
    name: str = Field("", description="a text by which you will know it")


def create_admin_app(context: Context) -> FastAPI:
    """The sub-application for everything under /admin."""
    app = Keyed(
        title="fluxserve: administration",
        version=__version__,
        description="Send the admin key.",
        responses=refusals(Refusal),
    )
    accounts = context.accounts

    @app.post("/accounts", summary="Open an account", openapi_extra=body_of(NewAccount) | REPEATABLE)
    async def create(request: Request) -> JSONResponse:
        values = await _body(context, request)
        body, repeatable = checked(NewAccount, values), repeatable_of(request, values)
        made = await accounts.create(
            body.name, credits_usd=body.credits_usd, max_concurrent=body.max_concurrent, repeatable=repeatable
        )
        return JSONResponse(asdict(made))

    @app.get("/accounts", summary="All accounts")
    async def all_accounts(request: Request) -> JSONResponse:
        _check(context, request)
        return JSONResponse([asdict(account) for account in await accounts.all()])

    @app.get("/accounts/{account_id}", summary="An account: its balance is in points")
    async def show(account_id: str, request: Request) -> JSONResponse:
        _check(context, request)
        return JSONResponse(asdict(await accounts.get(account_id)))

    @app.post("/accounts/{account_id}/credit", summary="Add credit", openapi_extra=body_of(Credit) | REPEATABLE)
    async def credit(account_id: str, request: Request) -> JSONResponse:
        values = await _body(context, request)
        body, repeatable = checked(Credit, values), repeatable_of(request, values)
        return JSONResponse(asdict(await accounts.credit(account_id, body.usd, repeatable)))

    @app.post("/accounts/{account_id}/limit", summary="Set the limit", openapi_extra=body_of(Limit))
    async def limit(account_id: str, request: Request) -> JSONResponse:
        body = checked(Limit, await _body(context, request))
        return JSONResponse(asdict(await accounts.limit(account_id, body.max_concurrent)))

    @app.post(
        "/accounts/{account_id}/keys",
        summary="Make a key: it is shown once",
        openapi_extra=body_of(NewKey) | REPEATABLE,
    )
    async def create_key(account_id: str, request: Request) -> JSONResponse:
        values = await _body(context, request)
        body, repeatable = checked(NewKey, values), repeatable_of(request, values)
        made, key = await accounts.create_key(account_id, body.name, repeatable)
        return JSONResponse({**asdict(made), "key": key})

    @app.get("/accounts/{account_id}/keys", summary="An account's keys, but for the keys themselves")
    async def keys(account_id: str, request: Request) -> JSONResponse:
        _check(context, request)
        return JSONResponse([asdict(key) for key in await accounts.keys(account_id)])

    @app.delete("/keys/{key_id}", summary="Revoke a key, by its id")
    async def revoke_key(key_id: str, request: Request) -> JSONResponse:
        _check(context, request)
        return JSONResponse(asdict(await accounts.revoke_key(key_id)))

    @app.get("/tasks/{task_id}/webhook", summary="Every attempt to send a task's webhook")
    async def webhook(task_id: str, request: Request) -> JSONResponse:
        _check(context, request)
        return JSONResponse(asdict(await context.outbox.log(None, task_id)))

    @app.post("/tasks/{task_id}/webhook", summary="Send a task's webhook again, at once")
    async def resend(task_id: str, request: Request) -> JSONResponse:
        _check(context, request)
        return JSONResponse(asdict(await context.outbox.resend(None, task_id)))

    @app.get("/audit", summary="What does not hold of the queue and the ledger; [] when all is well")
    async def audit(request: Request) -> JSONResponse:
        _check(context, request)
        return JSONResponse(await context.queue.audit())

    @app.exception_handler(FluxserveError)
    async def refuse(_request: Request, error: FluxserveError) -> JSONResponse:
        status = next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), 400)
        headers = {"Retry-After": str(error.retry_after)} if isinstance(error, Unavailable) else {}
        return JSONResponse({"error": error.message}, status, headers)

    @app.exception_handler(HTTPException)
    async def no_route(_request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def our_fault(_request: Request, _error: Exception) -> JSONResponse:
        return JSONResponse({"error": "the server has a fault; it is in its log"}, 500)

    return app


async def _body(context: Context, request: Request) -> dict[str, Any]:
    _check(context, request)
    return await read_body(request, context.largest_body)


def _check(context: Context, request: Request) -> None:
    """Raises `Unauthorized`."""
    key = key_of(request)
    if context.admin_key is None or not hmac.compare_digest(key.encode(), context.admin_key.encode()):
        raise Unauthorized("the key is not the admin key, which FLUXSERVE_ADMIN_KEY sets; without it /admin is closed")
