"""Receivers of webhooks, good and bad: real servers on a port of their own, whose every answer is bytes as written."""

import asyncio
import contextlib
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET

Answer = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK"


def status(number: int, *headers: str, body: bytes = b"") -> bytes:
    head = "\r\n".join((f"HTTP/1.1 {number} So it is", f"Content-Length: {len(body)}", *headers))
    return f"{head}\r\n\r\n".encode() + body


@dataclass
class Received:
    """One webhook, and when and over which of a receiver's connections it came. Names of headers are lower case."""

    request: str
    headers: dict[str, str]
    body: bytes
    at: float
    connection: int


@dataclass
class Receiver:
    """Gives its `answers` in turn, the last one for ever. `open` are the connections that have not been closed."""

    answers: list[Answer]
    received: list[Received] = field(default_factory=list)
    connections: int = 0
    open: int = 0
    port: int = 0
    scheme: str = "http"
    heard: Callable[[Received], None] = lambda _received: None

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/hook?of=mine"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        number = self.connections
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])}
                body = await reader.readexactly(int(headers["content-length"]))
                at = asyncio.get_running_loop().time()
                self.received.append(Received(head[0], headers, body, at, number))
                self.heard(self.received[-1])
                answer = self.answers[min(len(self.received), len(self.answers)) - 1]
                if isinstance(answer, bytes):
                    writer.write(answer)
                else:
                    await answer(writer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass  # the sender has left
        finally:
            self.open -= 1
            writer.close()


@contextlib.asynccontextmanager
async def receiving(*answers: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    """Good, if no answers are given."""
    receiver = Receiver(list(answers) or [OK], scheme="https" if tls else "http")
    serving: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(receiver.serve(reader, writer))
        serving[task] = writer
        task.add_done_callback(serving.pop)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        left = dict(serving)
        for task, writer in left.items():
            task.cancel()
            writer.close()  # here too: a task that had not begun does not
        await asyncio.gather(*left, return_exceptions=True)


# ---------------------------------------------------------------- bad manners


async def hang(_writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


def drip(before: bytes, byte: bytes, seconds: float = 0.1) -> Answer:
    """A byte now and then, for ever."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(before)
        while True:
            writer.write(byte)
            await writer.drain()
            await asyncio.sleep(seconds)

    return answer


def endless(before: bytes, part: bytes) -> Answer:
    """As fast as it is taken, for ever."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(before)
        while True:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)  # the sender's turn: here it lives in the same loop

    return answer


def closing(before: bytes = b"") -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(before)
        writer.close()
        raise ConnectionResetError

    return answer


async def reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    raise ConnectionResetError


def late(seconds: float, answer: bytes = OK) -> Answer:
    async def wait(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(seconds)
        writer.write(answer)

    return wait


def self_signed() -> ssl.SSLContext:
    """Of a receiver whose certificate nobody has signed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(Path(__file__).with_name("self_signed.pem"))
    return context
