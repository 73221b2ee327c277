"""What goes out: the headers of answers, the bodies that tell of a task, the numbers of refusals and failures.

Credits are US dollars: 10,000,000 points of the ledger are one.
"""

import uuid
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from fluxserve.api import inputs
from fluxserve.api.context import Context
from fluxserve.api.dialects.segmind.requests import PICTURES, Fill
from fluxserve.domain.credits import usd
from fluxserve.domain.errors import (
    CancelledByCaller,
    Expired,
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
    WrongHost,
    WrongOrigin,
    shown,
)
from fluxserve.domain.task import State, Task

MODEL = "flux-fill-dev"
HEADERS = {
    "x-request-id": "names the request; that of a task is also its id",
    "x-remaining-credits": "US$ that the account can still spend; not there if no key of ours came",
    "x-cost": "US$ that were charged for the pictures; 0 before they are there, and if there are none",
    "x-generation-time": "seconds that the drawing took; 0 before it has ended",
    "x-seed-value": "the seed of the first picture; the second has the next one; not there if there is no task",
}

STATUSES: dict[type[FluxserveError], int] = {
    Unauthorized: 401,
    WrongOrigin: 403,
    NotFound: 404,
    NotEnoughCredits: 406,
    TooSlow: 408,
    InFlight: 409,
    TooLarge: 413,
    WrongHost: 421,
    KeyReused: 422,
    TryLater: 429,
    Refused: 400,
    Unavailable: 502,
    NotYet: 504,
    FluxserveError: 500,
}

# What a caller who waited is answered, by why the task failed; any other is a 500.
FAILURES: dict[str, int] = {
    InvalidInput.code: 400,
    Flagged.code: 400,
    CancelledByCaller.code: 400,
    Expired.code: 504,
}

STATES = {
    State.STAGED: "QUEUED",
    State.PENDING: "QUEUED",
    State.PROCESSING: "PROCESSING",
    State.COMPLETED: "COMPLETED",
    State.FAILED: "FAILED",
}


# ---------------------------------------------------------------- the headers


async def headers_of(context: Context, account_id: str | None, task: Task | None) -> dict[str, str]:
    """Those of an answer to this account, about this task."""
    return {**_of_task(task), **await _of_account(context, account_id)}


def _of_task(task: Task | None) -> dict[str, str]:
    if task is None:
        return {"x-request-id": str(uuid.uuid4()), "x-cost": "0", "x-generation-time": "0"}
    return {
        "x-request-id": task.id,
        "x-cost": _decimal(cost(task)),
        "x-generation-time": _decimal(_drawing_seconds(task)),
        "x-seed-value": str(task.generation.seed),
    }


async def _of_account(context: Context, account_id: str | None) -> dict[str, str]:
    if account_id is None:
        return {}
    try:
        account = await context.accounts.get(account_id)
    except Unavailable:  # what was asked for is answered all the same
        return {}
    return {"x-remaining-credits": _decimal(usd(account.balance))}


def _decimal(number: float) -> str:
    """As people write it: 0.0000002, not 2e-07."""
    return f"{number:.7f}".rstrip("0").rstrip(".")


# ---------------------------------------------------------------- a task


def echo_of(asked: Fill) -> dict[str, object]:
    """What is kept of the request, in the form in which every door can show it.

    A picture that came in the request itself is not repeated: nobody polls for megabytes."""
    values = asked.model_dump(exclude_none=True)
    for name in PICTURES:
        given = values.get(name)
        if given is not None and not (isinstance(given, str) and inputs.WEB_ADDRESS.match(given)):
            values[name] = ""
    return {
        "model": MODEL,
        "task_type": "fill-inpaint",
        "config": {"service_mode": "", "webhook_config": {"endpoint": "", "secret": ""}},
        "input": values,
    }


def submitted(task: Task, public_url: str) -> dict[str, Any]:
    """What a request is answered that nobody waits for."""
    return {
        "request_id": task.id,
        "status": "QUEUED",
        "poll_url": f"{public_url}/v1/requests/{task.id}",
        "status_url": f"{public_url}/v2/requests/{task.id}/status",
        "response_url": f"{public_url}/v2/requests/{task.id}",
    }


def status(task: Task, public_url: str) -> dict[str, Any]:
    """How a task stands."""
    told = submitted(task, public_url) | {"status": STATES[task.state], "metrics": {}}
    if task.state.is_final:
        told["metrics"] = {"inference_time": _drawing_seconds(task)}
    return told | ({"error": task.error_message} if task.state is State.FAILED else {})


def result(task: Task, context: Context, remaining: float) -> dict[str, Any]:
    """A completed task, with its pictures."""
    images = [
        {
            "url": context.picture_url(output.id, output.key),
            "content_type": output.content_type,
            "file_name": f"{output.id}.{output.key.rsplit('.', 1)[-1]}",
            "file_size": output.size,
        }
        for output in task.outputs
    ]
    began, ended = task.started_at or task.created_at, task.ended_at or task.created_at
    return {
        "status": STATES[task.state],
        "request_id": task.id,
        "output": images[0]["url"],
        "images": images,
        "seed": task.generation.seed,
        "prompt": task.generation.kind.prompt,
        "timings": {"inference": _drawing_seconds(task)},
        "metrics": {
            "cost": cost(task),
            "remaining_credits": remaining,
            "inference_time": _drawing_seconds(task),
            "queue_time": began - task.created_at,
            "total_time": ended - task.created_at,
            "retry_count": task.losses,
        },
    }


def cost(task: Task) -> float:
    """US$ that it has cost."""
    return usd(task.price) if task.state is State.COMPLETED else 0.0


def _drawing_seconds(task: Task) -> float:
    if task.started_at is None or task.ended_at is None:
        return 0.0
    return task.ended_at - task.started_at


# ---------------------------------------------------------------- refusals and failures


def failure(task: Task, headers: dict[str, str]) -> JSONResponse:
    """What a caller who waited for a failed task is answered."""
    return _error(FAILURES.get(task.error_code or "", 500), task.error_message or "the task failed", headers)


def refusal(error: FluxserveError, headers: dict[str, str] | None = None) -> JSONResponse:
    """The answer that tells `error`; `headers` are those of its account and task, where they are known."""
    later = {"Retry-After": str(error.retry_after)} if isinstance(error, (TryLater, Unavailable)) else {}
    number = next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)
    return _error(number, error.message, later | (headers or _of_task(None)))


async def no_route(request: Request, error: HTTPException) -> JSONResponse:
    """The answer to a path or a method that there is not."""
    asked = f"{request.method} {shown(request.url.path)}"
    message = f"{asked}: {error.detail}"
    if error.status_code == STATUSES[NotFound]:
        message = f"{asked}: there is no such model or path; the model is {MODEL}"
    return _error(error.status_code, message, _of_task(None) | dict(error.headers or {}))


async def our_fault(_request: Request, _fault: Exception) -> JSONResponse:
    return _error(500, "the server has a fault; it is in its log", _of_task(None))


def _error(number: int, message: str, headers: dict[str, str]) -> JSONResponse:
    return JSONResponse({"error": message}, number, headers)
