"""An upstream of the tests' own: it says what a test has written down, breaks where the test wants it to, and keeps
what it heard. Bytes over a socket, so that nothing is more polite than it should be.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

KEY = "sk-canary-of-the-upstream"
END = b"0\r\n\r\n"
Say = Callable[["Heard", asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Heard:
    """A request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def values(self) -> dict[str, Any]:
        values: dict[str, Any] = json.loads(self.body)
        return values


@dataclass
class Stub:
    """One that is running. `script` has what it does with each request in turn; the last is done again and again.

    `left` counts the callers who hung up before it had said all.
    """

    url: str
    script: list[Say]
    heard: list[Heard] = field(default_factory=list)
    connections: int = 0
    left: int = 0


@asynccontextmanager
async def stub(*script: Say) -> AsyncIterator[Stub]:
    running = Stub("", list(script))
    under_way: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        running.connections += 1
        task = asyncio.current_task()
        assert task is not None
        under_way.add(task)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                while True:
                    await _one(running, reader, writer)
        finally:
            under_way.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    running.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield running
    finally:
        server.close()
        for task in tuple(under_way):
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


async def _one(running: Stub, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    heard = await _read(reader)
    running.heard.append(heard)
    say = running.script.pop(0) if len(running.script) > 1 else running.script[0]
    saying = asyncio.ensure_future(say(heard, writer))
    leaving = asyncio.ensure_future(reader.read(1))  # nobody sends a second request before the answer
    await asyncio.wait((saying, leaving), return_when=asyncio.FIRST_COMPLETED)
    is_over = saying.done()
    for each in (saying, leaving):
        each.cancel()
    ending, _ = await asyncio.gather(saying, leaving, return_exceptions=True)
    if not is_over:
        running.left += 1
        raise ConnectionResetError
    if isinstance(ending, BaseException):
        raise ending


async def _read(reader: asyncio.StreamReader) -> Heard:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Heard(first.split()[1], headers, await reader.readexactly(int(headers["content-length"])))


# ---------------------------------------------------------------- what it may say


def status(number: int, data: bytes | None = None, **headers: str) -> Say:
    """An answer of this status; by default one of OpenAI's errors that tells the key that came."""

    async def say(heard: Heard, writer: asyncio.StreamWriter) -> None:
        error = {"message": f"no: {heard.headers.get('authorization')}", "type": "t", "param": None, "code": "c"}
        _send(writer, number, json.dumps({"error": error}).encode() if data is None else data, **headers)
        await writer.drain()

    return say


def whole(data: bytes) -> Say:
    return status(200, data)


def completion(text: str = "Hello!", usage: Any = None, **more: Any) -> bytes:
    """A chat.completion object; without usage unless it is given."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    told = {} if usage is None else {"usage": usage}
    body = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "there", "choices": [choice]}
    return json.dumps({**body, **told, **more}).encode()


def usage(prompt: Any, completion: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": 0}


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    """An event with one chunk of a stream."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    body = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "there"}
    return b"data: " + json.dumps({**body, "choices": [choice], **more}).encode() + b"\n\n"


def last_chunk(told: Any) -> bytes:
    """The one that has only the usage."""
    body = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "there", "choices": []}
    return b"data: " + json.dumps({**body, "usage": told}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
HELLO = (
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": "Hel"}),
    chunk({"content": "lo!"}),
    chunk({}, "stop"),
)


def pictures(*texts: str, **more: Any) -> bytes:
    """An answer of the Images API."""
    return json.dumps({"created": 1, "data": [{"b64_json": text} for text in texts], **more}).encode()


def look(name: str, text: str, **more: Any) -> bytes:
    """An event of the Images API: "partial_image" or "completed"."""
    values = {"type": f"image_generation.{name}", "b64_json": text, "created_at": 1, **more}
    return f"event: image_generation.{name}\ndata: {json.dumps(values)}\n\n".encode()


def stream(*parts: bytes, gap: float = 0.0, is_cut: bool = False, hangs: bool = False) -> Say:
    """Pieces of a stream, `gap` seconds between them; then its end, or no end, or nothing for ever."""

    async def say(heard: Heard, writer: asyncio.StreamWriter) -> None:
        del heard
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for part in parts:
            writer.write(b"%x\r\n%b\r\n" % (len(part), part))
            await writer.drain()
            await asyncio.sleep(gap)
        if hangs:
            await asyncio.Event().wait()
        if is_cut:
            writer.close()
            raise ConnectionResetError
        writer.write(END)
        await writer.drain()

    return say


def told_stream(*parts: bytes, told: Any) -> Say:
    """As OpenAI does: the usage in a chunk of its own, where it was asked for."""

    async def say(heard: Heard, writer: asyncio.StreamWriter) -> None:
        wants = (heard.values.get("stream_options") or {}).get("include_usage")
        await stream(*parts, *((last_chunk(told),) if wants else ()), DONE)(heard, writer)

    return say


async def hang(heard: Heard, writer: asyncio.StreamWriter) -> None:
    del heard, writer
    await asyncio.Event().wait()


async def cut(heard: Heard, writer: asyncio.StreamWriter) -> None:
    """Closed without a word."""
    del heard
    writer.close()
    raise ConnectionResetError


def late(seconds: float, say: Say) -> Say:
    async def later(heard: Heard, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(seconds)
        await say(heard, writer)

    return later


def answering(by_request: Callable[[Heard], Say]) -> Say:
    """Whatever `by_request` makes of what was heard."""

    async def say(heard: Heard, writer: asyncio.StreamWriter) -> None:
        await by_request(heard)(heard, writer)

    return say


def _send(writer: asyncio.StreamWriter, number: int, data: bytes, **headers: str) -> None:
    told = {"content-type": "application/json", "content-length": str(len(data)), **headers}
    lines = [f"HTTP/1.1 {number} Words", *(f"{name.replace('_', '-')}: {value}" for name, value in told.items())]
    writer.write("\r\n".join([*lines, "", ""]).encode() + data)
