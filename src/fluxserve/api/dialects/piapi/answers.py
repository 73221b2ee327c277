"""What goes out: the envelope that every answer about a task has, and the numbers of refusals and failures."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from fluxserve.api import inputs
from fluxserve.api.dialects.piapi.requests import Asked, TaskConfig, WebhookConfig
from fluxserve.domain.errors import (
    Abandoned,
    CancelledByCaller,
    DrawingFailed,
    Flagged,
    FluxserveError,
    InvalidInput,
    NotEnoughCredits,
    NotFound,
    Refused,
    TaskFailed,
    TooLarge,
    TooMany,
    TooSlow,
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
    WrongHost: 421,
    TooMany: 429,
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
            "created_at": _moment(task.created_at),
            "started_at": _moment(task.started_at),
            "ended_at": _moment(task.ended_at),
            "usage": {
                "type": "point",
                "frozen": 0 if task.state.is_final else task.price,
                "consume": task.price if task.state is State.COMPLETED else 0,
            },
            "is_using_private_pool": False,
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


def _output(outputs: tuple[Output, ...], picture_url: Callable[[Output], str]) -> dict[str, Any] | None:
    match [picture_url(output) for output in outputs]:
        case []:
            return None
        case [url]:
            return {"image_base64": "", "image_url": url}
        case urls:
            return {"image_urls": urls}


def _moment(seconds: float | None) -> str:
    if seconds is None:
        return NEVER
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
