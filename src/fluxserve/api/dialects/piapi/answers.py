"""What goes out: the envelope that every answer about a task has, and the numbers of refusals and failures."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from fastapi.responses import JSONResponse, Response

from fluxserve.api import inputs
from fluxserve.api.dialects.piapi.requests import Asked, TaskConfig, WebhookConfig
from fluxserve.domain.completion import Completion
from fluxserve.domain.errors import (
    Abandoned,
    CancelledByCaller,
    DrawingFailed,
    Expired,
    Flagged,
    FluxserveError,
    InFlight,
    InvalidInput,
    KeyReused,
    NotEnoughCredits,
    NotFound,
    Refused,
    TaskFailed,
    TooLarge,
    TooSlow,
    TryLater,
    Unauthorized,
    Unavailable,
    WrongHost,
    WrongOrigin,
)
from fluxserve.domain.task import Output, State, Task

NEVER = "0001-01-01T00:00:00Z"
PICTURE_FIELDS = ("image", "control_image")

STATUSES: dict[type[FluxserveError], int] = {
    InvalidInput: 400,
    Unauthorized: 401,
    NotEnoughCredits: 402,
    WrongOrigin: 403,
    NotFound: 404,
    TooSlow: 408,
    TooLarge: 413,
    InFlight: 409,
    WrongHost: 421,
    KeyReused: 422,
    TryLater: 429,
    Refused: 400,
    Unavailable: 503,
}

# data.error.code of a failed task; docs/piapi.md publishes the table.
ERROR_CODES: dict[str, int] = {
    TaskFailed.code: 1000,
    InvalidInput.code: 1100,
    DrawingFailed.code: 1200,
    Abandoned.code: 1201,
    Flagged.code: 1202,
    Expired.code: 1203,
    CancelledByCaller.code: 1300,
}


def echo_of(asked: Asked) -> dict[str, object]:
    """What the envelope repeats of the request: known fields only, the vendor's usual ones always there.

    A picture that came in the request itself is not repeated: nobody polls for megabytes."""
    body = asked.body
    config = body.config or TaskConfig()
    webhook = config.webhook_config or WebhookConfig()
    usual = {"prompt": "", "negative_prompt": "", "image": "", "width": 0, "height": 0, "steps": 0}
    return {
        "model": body.model,
        "task_type": body.task_type,
        "config": {
            "service_mode": config.service_mode or "",
            "webhook_config": {"endpoint": webhook.endpoint or "", "secret": webhook.secret or ""},
        },
        "input": usual | _without_pictures(asked.input.model_dump(exclude_none=True)),
    }


def _without_pictures(known: Any) -> Any:
    if isinstance(known, dict):
        return {
            name: "" if name in PICTURE_FIELDS and not inputs.WEB_ADDRESS.match(value) else _without_pictures(value)
            for name, value in known.items()
        }
    return [_without_pictures(value) for value in known] if isinstance(known, list) else known


def envelope(task: Task, picture_url: Callable[[Output], str]) -> dict[str, Any]:
    return {"code": 200, "data": task_data(task, picture_url), "message": "success"}


def webhook_body(task: Task, now: float, picture_url: Callable[[Output], str]) -> bytes:
    """What a caller's webhook is sent: the task as a poll would tell it."""
    return json.dumps({"timestamp": int(now), "data": task_data(task, picture_url)}).encode()


def task_data(task: Task, picture_url: Callable[[Output], str]) -> dict[str, Any]:
    """A task as the vendor shows it, to the last key."""
    seeds = list(task.generation.seeds)
    return {
        "task_id": task.id,
        "model": task.request["model"],
        "task_type": task.request["task_type"],
        "status": str(task.state),
        "config": task.request["config"],
        "input": task.request["input"],
        "output": _output(task.outputs, picture_url),
        "meta": {
            "created_at": moment(task.created_at),
            "started_at": moment(task.started_at),
            "ended_at": moment(task.ended_at),
            "usage": {"type": "point", "frozen": frozen(task), "consume": consumed(task)},
            "is_using_private_pool": task.is_private,
            "seed": seeds[0],
            **({"seeds": seeds} if len(seeds) > 1 else {}),
        },
        "detail": None,
        "logs": [],
        "error": {
            "code": ERROR_CODES.get(task.error_code, ERROR_CODES[TaskFailed.code]) if task.error_code else 0,
            "raw_message": task.error_message or "",
            "message": task.error_message or "",
            "detail": None,
        },
    }


def completion_answer(completion: Completion) -> Response:
    """As the vendor's page for language models has it: the chat.completion object itself, without an envelope. Where
    there is none, or it is kept no longer, the envelope tells how the completion stands.
    """
    if completion.answer is not None:
        return Response(completion.answer, media_type="application/json")
    return JSONResponse({"code": 200, "data": _completion_data(completion), "message": "success"})


def _completion_data(completion: Completion) -> dict[str, Any]:
    is_open, code = not completion.state.is_final, completion.error_code
    return {
        "task_id": completion.id,
        "model": completion.model,
        "task_type": "chat",
        "status": str(completion.state),
        "config": {"service_mode": "", "webhook_config": {"endpoint": "", "secret": ""}},
        "input": {},
        "output": None,
        "meta": {
            "created_at": moment(completion.created_at),
            "started_at": moment(completion.created_at),
            "ended_at": moment(completion.ended_at),
            "usage": {
                "type": "point",
                "frozen": completion.held if is_open else 0,
                "consume": completion.price or 0,
            },
            "is_using_private_pool": False,
        },
        "detail": None,
        "logs": [],
        "error": {
            "code": ERROR_CODES.get(code, ERROR_CODES[TaskFailed.code]) if code else 0,
            "raw_message": completion.error_message or "",
            "message": completion.error_message or "",
            "detail": None,
        },
    }


def frozen(task: Task) -> int:
    """Points that it holds."""
    return 0 if task.state.is_final else task.price


def consumed(task: Task) -> int:
    """Points that it has cost."""
    return task.price if task.state is State.COMPLETED else 0


def _output(outputs: tuple[Output, ...], picture_url: Callable[[Output], str]) -> dict[str, Any] | None:
    match [picture_url(output) for output in outputs]:
        case []:
            return None
        case [url]:
            return {"image_base64": "", "image_url": url}
        case urls:
            return {"image_urls": urls}


def moment(seconds: float | None) -> str:
    if seconds is None:
        return NEVER
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
