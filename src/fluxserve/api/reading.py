"""Reading a request: who calls, and what it says. What is wrong with it is the caller's to mend, never a 500."""

import hashlib
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from python_multipart.exceptions import FormParserError
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from fluxserve.api.context import Context
from fluxserve.api.perimeter.clients import client_at
from fluxserve.domain.errors import InvalidInput, TooLarge, Unauthorized
from fluxserve.domain.task import Repeatable
from fluxserve.tasks import Caller
from fluxserve.tasks.accounts import key_id

M = TypeVar("M", bound=BaseModel)

LONGEST_IDEMPOTENCY_KEY = 255
UNKNOWN = "application/octet-stream"
MOST_PARTS = 64  # of a form, fields and files each
LONGEST_DEADLINE_SECONDS = 30 * 86_400


async def caller_of(request: Request, context: Context) -> Caller:
    """Whose key came with the request. Raises `Unauthorized` or `TooMany`."""
    key = key_of(request)
    try:
        caller = await context.accounts.authenticate(key)
    except Unauthorized:
        await context.rates.count_wrong(client_at(request.client.host if request.client else ""), key_id(key))
        raise
    await context.rates.count(caller.key_id)
    return caller


def key_of(request: Request) -> str:
    """The key that came with the request. Raises `Unauthorized`."""
    key = request.headers.get("x-api-key") or _bearer(request.headers.get("authorization", ""))
    if not key:
        raise Unauthorized("no API key came with the request; send it as X-API-Key or as Authorization: Bearer")
    return key


def repeatable_of(request: Request, values: dict[str, Any]) -> Repeatable | None:
    """The request's Idempotency-Key, with the hash of what it asks for. Raises `InvalidInput`."""
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not (0 < len(key) <= LONGEST_IDEMPOTENCY_KEY and key.isascii() and key.isprintable()):
        allowed = f"allowed are 1 to {LONGEST_IDEMPOTENCY_KEY} printable ASCII characters"
        raise InvalidInput("Idempotency-Key", key, allowed)
    said = json.dumps([request.method, request.url.path, values], sort_keys=True, separators=(",", ":"))
    return Repeatable(key, hashlib.sha256(said.encode()).digest())


def deadline_of(request: Request) -> float | None:
    """The request's X-Deadline-Seconds. Raises `InvalidInput`."""
    text = request.headers.get("x-deadline-seconds")
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= LONGEST_DEADLINE_SECONDS:
        allowed = f"allowed is a number of seconds over 0 up to {LONGEST_DEADLINE_SECONDS}"
        raise InvalidInput("X-Deadline-Seconds", text, allowed)
    return seconds


def _bearer(header: str) -> str:
    scheme, _, key = header.partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def query_values(request: Request) -> dict[str, str]:
    """What comes after the question mark, empty values left out."""
    return {name: value for name, value in request.query_params.items() if value}


async def read_body(request: Request, largest: int) -> dict[str, Any]:
    """The request's JSON object. Raises `TooLarge` or `InvalidInput`."""
    return object_in(await read_bytes(request, largest))


def object_in(body: bytes) -> dict[str, Any]:
    """The JSON object that a body is. Raises `InvalidInput`."""
    try:
        # NaN, bottomless nesting, broken UTF-8 and lone surrogates all end here.
        values = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidInput("body", body[:40].decode(errors="replace"), f"it must be JSON: {error}") from None
    if not isinstance(values, dict):
        raise InvalidInput("body", values, "it must be a JSON object")
    return values


def checked(model: type[M], values: object) -> M:
    """`values` as `model`. Raises `InvalidInput`."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _explained(model, error.errors()[0]) from None


@dataclass(frozen=True, slots=True)
class File:
    """Of a form."""

    data: bytes
    name: str
    content_type: str


@dataclass(frozen=True, slots=True)
class Form:
    """What a multipart form says: its texts, the last of each name, and its files."""

    texts: dict[str, str]
    files: dict[str, list[File]]

    def digest(self) -> dict[str, Any]:
        """What tells it from another, small."""
        files = {name: [hashlib.sha256(file.data).hexdigest() for file in each] for name, each in self.files.items()}
        return {"texts": self.texts, "files": files}


class _FormParser(MultiPartParser):
    """Starlette's, which takes a form that breaks off for one that has ended, and leaves its files open."""

    has_ended = False

    def on_end(self) -> None:
        self.has_ended = True

    def close(self) -> None:
        for file in self._files_to_close_on_error:
            file.close()


async def read_form(request: Request, largest: int) -> Form:
    """The request's multipart form. Raises `TooLarge` or `InvalidInput`."""
    body = await read_bytes(request, largest)

    async def whole() -> AsyncGenerator[bytes, None]:
        yield body

    kind = request.headers.get("content-type", "")
    if not kind.lower().startswith("multipart/form-data"):
        raise InvalidInput("Content-Type", kind, "allowed is multipart/form-data")
    parser = _FormParser(request.headers, whole(), max_files=MOST_PARTS, max_fields=MOST_PARTS, max_part_size=largest)
    texts: dict[str, str] = {}
    files: dict[str, list[File]] = {}
    try:
        parsed = await parser.parse()
        if not parser.has_ended:
            raise MultiPartException("it breaks off before its last boundary")
        for name, value in parsed.multi_items():
            if isinstance(value, str):
                texts[name] = value
            else:
                file = File(await value.read(), value.filename or name, value.content_type or UNKNOWN)
                files.setdefault(name, []).append(file)
    except (MultiPartException, FormParserError, KeyError, ValueError) as error:
        raise InvalidInput(
            "body", body[:40].decode(errors="replace"), f"it must be a multipart form: {error}"
        ) from None
    finally:
        parser.close()
    return Form(texts, files)


async def read_bytes(request: Request, largest: int) -> bytes:
    """The request's body as it came. Raises `TooLarge` or `InvalidInput`."""
    refusal = TooLarge(f"body: it is larger than the {largest} bytes that are read")
    declared = request.headers.get("content-length", "").lstrip("0")  # int() refuses thousands of zeros
    if declared.isdecimal() and int(declared) > largest:
        raise refusal
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > largest:
                raise refusal
            parts.append(part)
    except ClientDisconnect:  # nobody hears the answer, but it is no fault of ours to be logged
        raise InvalidInput("body", "the beginning of one", "it must come to its end") from None
    return b"".join(parts)


def _explained(model: type[BaseModel], error: Any) -> InvalidInput:
    """Pydantic's first error in our words: the field, the value, and the field's own description of what is allowed."""
    field = ".".join(str(part) for part in error["loc"])
    allowed = _description(model, error["loc"])
    value = "nothing" if error["type"] == "missing" else error["input"]
    if error["type"] == "extra_forbidden":
        return InvalidInput(field, value, f"there is no such field; allowed are {', '.join(model.model_fields)}")
    return InvalidInput(field, value, f"allowed is {allowed}" if allowed else error["msg"])


def _description(model: type[BaseModel], location: tuple[str | int, ...]) -> str | None:
    """The description of the field at `location`, or of the deepest one above it that has one."""
    found, current = None, model
    for part in location:
        info = current.model_fields.get(str(part))
        if info is None:
            break
        found = info.description or found
        inner = [
            each for each in (info.annotation, *getattr(info.annotation, "__args__", ())) if isinstance(each, type)
        ]
        nested = [each for each in inner if issubclass(each, BaseModel)]
        if not nested:
            break
        current = nested[0]
    return found
