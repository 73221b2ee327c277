"""PiAPI's task API: create a task, poll it, cancel it.

A request is checked in three steps: its shape by the models below, its values by the catalogue's row for the model, and
last the picture that it may bring, which costs most.
The descriptions of the fields say what is allowed; they stand in the API's pages and in the refusals alike.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, AnyHttpUrl, BaseModel, BeforeValidator, ConfigDict, Field
from starlette.exceptions import HTTPException

from fluxserve import __version__
from fluxserve.api import inputs
from fluxserve.api.context import Context
from fluxserve.api.inputs import Inputs
from fluxserve.api.reading import account_of, checked, read_body
from fluxserve.domain.catalog import LONGEST_SIDE, MODELS, MOST_PIXELS, SHORTEST_SIDE, Model
from fluxserve.domain.errors import (
    Abandoned,
    CancelledByCaller,
    DrawingFailed,
    FluxserveError,
    InvalidInput,
    NotEnoughCredits,
    NotFound,
    Refused,
    TaskFailed,
    TooLarge,
    TooMany,
    Unauthorized,
    Unavailable,
    shown,
)
from fluxserve.domain.generation import (
    LARGEST_SEED,
    RANDOM_SEED,
    Generation,
    ImageToImage,
    Kind,
    TextToImage,
    images_of,
)
from fluxserve.domain.task import Output, State, Task

VENDOR = "Qubico/"
DEFAULT_DENOISE = 0.7
NEVER = "0001-01-01T00:00:00Z"
SIDE_ALLOWED = (
    f"a whole number of pixels from {SHORTEST_SIDE} to {LONGEST_SIDE}, width x height at most {MOST_PIXELS}; "
    "0 or absent for 1024"
)

STATUSES: dict[type[FluxserveError], int] = {
    InvalidInput: 400,
    Unauthorized: 401,
    NotEnoughCredits: 402,
    NotFound: 404,
    TooLarge: 413,
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
    CancelledByCaller.code: 1300,
}


# ---------------------------------------------------------------- what comes in


def _whole(value: object) -> object:
    """JSON has one kind of number: 4.0 is 4."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _clean(text: str) -> str:
    if "\0" in text:
        raise ValueError("a NUL character")
    return text


def _said(text: str) -> str:
    if not text.strip():
        raise ValueError("empty")
    return text


def _address(text: str) -> str:
    if text:
        AnyHttpUrl(text)
    return text


Whole = Annotated[int, BeforeValidator(_whole)]
Text = Annotated[str, AfterValidator(_clean)]


class _Incoming(BaseModel):
    """Fields that the vendor's pages don't know are ignored; null means absent."""

    model_config = ConfigDict(strict=True, extra="ignore")


class _DrawingInput(_Incoming):
    """What every task type is told."""

    prompt: Annotated[Text, AfterValidator(_said)] = Field(
        max_length=10_000, description="a text of 1 to 10,000 characters"
    )
    negative_prompt: Text | None = Field(
        None, max_length=10_000, description="a text of at most 10,000 characters: what the picture should not show"
    )
    guidance_scale: float | None = Field(
        None, description="a number from 1.5 to 5; schnell has no guidance and ignores it"
    )
    steps: Whole | None = Field(
        None,
        description="a whole number of denoising steps: at most 10 for schnell, 40 for dev; 0 or absent for 4 and 25",
    )
    seed: Whole | None = Field(
        None,
        ge=RANDOM_SEED,
        le=LARGEST_SEED,
        description=f"a whole number from 0 to {LARGEST_SEED}; -1 or absent for a random one",
    )
    batch_size: Whole | None = Field(
        None, ge=1, le=4, description="a whole number of pictures from 1 to 4; only schnell makes more than one"
    )
    lora_settings: Annotated[list[Any], Field(max_length=0)] | None = Field(
        None, description="null or [] for this task type, which takes no LoRA"
    )
    control_net_settings: Annotated[list[Any], Field(max_length=0)] | None = Field(
        None, description="null or [] for this task type, which takes no control"
    )


class TextToImageInput(_DrawingInput):
    """txt2img: what to draw, and how large."""

    width: Whole | None = Field(None, description=SIDE_ALLOWED)
    height: Whole | None = Field(None, description=SIDE_ALLOWED)


class ImageToImageInput(_DrawingInput):
    """img2img: what to draw over a picture. The result has the picture's size."""

    image: Annotated[Text, AfterValidator(_said)] = Field(description=inputs.ALLOWED)
    denoise: float | None = Field(
        None,
        gt=0,
        le=1,
        description=f"a number over 0 up to 1: how little of the picture stays; {DEFAULT_DENOISE} if absent",
    )


@dataclass(frozen=True, slots=True)
class TaskType:
    """One of the vendor's task types: what its `input` holds, and which models do it."""

    name: str
    input: type[_DrawingInput]
    models: tuple[str, ...]


TASK_TYPES: dict[str, TaskType] = {
    each.name: each
    for each in (
        TaskType("txt2img", TextToImageInput, tuple(MODELS)),
        TaskType("img2img", ImageToImageInput, tuple(MODELS)),
    )
}


class WebhookConfig(_Incoming):
    endpoint: Annotated[Text, AfterValidator(_address)] | None = Field(
        None, max_length=2000, description="an http or https address, or empty"
    )
    secret: Text | None = Field(None, max_length=1000, description="a text of at most 1,000 characters")


class TaskConfig(_Incoming):
    webhook_config: WebhookConfig | None = Field(None, description="an object with endpoint and secret")
    service_mode: Literal["", "public"] | None = Field(None, description='"public" or empty')


class CreateTask(_Incoming):
    """The body of a creating request."""

    model: str = Field(description=f"one of {', '.join(VENDOR + name for name in MODELS)}")
    task_type: str = Field(description=f"one of {', '.join(TASK_TYPES)}")
    input: dict[str, Any] = Field(description="an object with a prompt")
    config: TaskConfig | None = Field(None, description="an object with webhook_config and service_mode")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request whose shape has been checked. `task_type` does what `model` can do."""

    body: CreateTask
    model: Model
    task_type: TaskType
    input: _DrawingInput


def read(values: dict[str, Any]) -> Asked:
    """Raises `InvalidInput`."""
    body = checked(CreateTask, values)
    model = MODELS.get(body.model.removeprefix(VENDOR))
    if model is None:
        raise InvalidInput("model", body.model, f"allowed is one of {', '.join(VENDOR + name for name in MODELS)}")
    task_type = TASK_TYPES.get(body.task_type)
    if task_type is None or model.name not in task_type.models:
        allowed = ", ".join(each.name for each in TASK_TYPES.values() if model.name in each.models)
        raise InvalidInput("task_type", body.task_type, f"{body.model} allows {allowed}")
    try:
        return Asked(body, model, task_type, checked(task_type.input, body.input))
    except InvalidInput as error:
        raise error.inside("input") from None


async def to_generation(asked: Asked, pictures: Inputs, random_seed: Callable[[], int]) -> Generation:
    """The request, complete: defaults filled in, its picture on the shelf. Raises `InvalidInput` for what the model
    can't do, before any picture is taken."""
    wanted, model = asked.input, asked.model
    negative_prompt = wanted.negative_prompt or ""
    try:
        steps, guidance_scale = model.steps(wanted.steps), model.guidance(wanted.guidance_scale)
        match wanted:
            case TextToImageInput():
                width, height = model.size(wanted.width, wanted.height)
                kind: Kind = TextToImage(wanted.prompt, negative_prompt)
            case ImageToImageInput():
                picture = await pictures.take("image", wanted.image)
                width, height = model.size_like(picture.width, picture.height)
                kind = ImageToImage(wanted.prompt, picture.key, wanted.denoise or DEFAULT_DENOISE, negative_prompt)
            case _:
                raise TypeError(f"no kind of drawing for {type(wanted).__name__}")
    except InvalidInput as error:
        raise error.inside("input") from None
    return Generation(
        model=model.name,
        kind=kind,
        width=width,
        height=height,
        steps=steps,
        guidance_scale=guidance_scale,
        seed=random_seed() if wanted.seed is None or wanted.seed == RANDOM_SEED else wanted.seed,
        count=min(wanted.batch_size or 1, model.most_pictures),
    )


def to_echo(asked: Asked) -> dict[str, object]:
    """What the envelope repeats of the request: known fields only, the vendor's usual ones always there.

    A picture that came in the request itself is not repeated: nobody polls for megabytes."""
    body, known = asked.body, asked.input.model_dump(exclude_none=True)
    if not inputs.WEB_ADDRESS.match(known.get("image", "http://")):
        known["image"] = ""
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
        "input": usual | known,
    }


# ---------------------------------------------------------------- what goes out


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


# ---------------------------------------------------------------- the door itself


def create_app(context: Context) -> FastAPI:
    """The sub-application for everything under /api."""
    app = FastAPI(title="fluxserve: PiAPI's task API", version=__version__, description=_about())

    def picture_url(output: Output) -> str:
        return context.picture_url(output.id, output.key)

    @app.post("/v1/task", summary="Create a task", openapi_extra=_body_schema())
    async def create(request: Request) -> JSONResponse:
        account_id = await account_of(request, context.accounts)
        asked = read(await read_body(request, context.largest_body))
        generation = await to_generation(asked, context.inputs, _random_seed)
        try:
            task = await context.queue.submit(account_id, to_echo(asked), generation)
        except FluxserveError:
            await context.inputs.discard(images_of(generation))
            raise
        return JSONResponse(envelope(task, picture_url))

    @app.get("/v1/task/{task_id}", summary="Get a task")
    async def get(task_id: str, request: Request) -> JSONResponse:
        account_id = await account_of(request, context.accounts)
        return JSONResponse(envelope(await context.queue.get(account_id, task_id), picture_url))

    @app.delete("/v1/task/{task_id}", summary="Cancel a task, waiting or being drawn")
    async def cancel(task_id: str, request: Request) -> JSONResponse:
        account_id = await account_of(request, context.accounts)
        task = await context.queue.cancel(account_id, task_id)
        if task.state is State.COMPLETED or (task.state is State.FAILED and task.error_code != CancelledByCaller.code):
            raise Refused(f"task {task_id} can't be canceled: it is {task.state} already")
        return JSONResponse({"code": 200, "message": f"task {task_id} canceled"})

    @app.exception_handler(FluxserveError)
    async def refuse(_request: Request, error: FluxserveError) -> JSONResponse:
        status = next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)
        headers = {"Retry-After": str(error.retry_after)} if isinstance(error, TooMany) else {}
        return _refusal(status, error.message, headers)

    app.add_exception_handler(HTTPException, no_route)  # type: ignore[arg-type]

    @app.exception_handler(Exception)
    async def our_fault(_request: Request, _error: Exception) -> JSONResponse:
        return _refusal(500, "the server has a fault; it is in its log", {})

    return app


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


def _body_schema() -> dict[str, Any]:
    """The body's schema for the API's pages: the handler reads the body itself, so that no bad one can be a 500."""
    schema = CreateTask.model_json_schema(ref_template="#/$defs/{model}")
    schema["properties"]["task_type"]["enum"] = list(TASK_TYPES)
    schema["properties"]["input"] = {"oneOf": [each.input.model_json_schema() for each in TASK_TYPES.values()]}
    definitions = schema.pop("$defs", {})

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


__all__ = ["ERROR_CODES", "CreateTask", "create_app", "envelope", "no_route", "task_data", "to_echo", "to_generation"]
