"""What a relay adds to a chat completion: milliseconds a call, and how many calls a second go through it.

    python -m benchmarks.relay [--seconds 5] [--rounds 3] [--sides bare,ours,litellm,portkey]

    bare      the upstream itself: it answers at once with the same words (benchmarks/upstream.py)
    ours      fluxserve; keys, credits held and settled by two commits, the second durable, and every answer kept
    litellm   LiteLLM's proxy, without a database
    portkey   Portkey's gateway, in Node.js

Each side is asked for a whole answer and for a stream, with a body of 2 KB, and of 1.4 MB as a picture makes it: by one
caller for the time of a call, and by several for how many there can be. A stream's time is that to its end, and to its
first event. The sides are kept to the machine's first core, upstream and callers to the others, if there are any.

Peers are installed at their first use, each in an environment of its own under ``.peers/``.
"""

import argparse
import asyncio
import itertools
import json
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.accept import open_accounts
from benchmarks.queue import on_the_clients_cores, served
from benchmarks.results import RESULTS, Result, this_machine
from tests.end_to_end.serving import free_port, until
from tests.end_to_end.text_model import relayed

MODEL = "text"
SMALL, LARGE = 2_000, 1_400_000  # bytes of a body
PATH = "/v1/chat/completions"
END_OF_HEAD, LENGTH = b"\r\n\r\n", b"\r\ncontent-length:"
FIRST_EVENT, LAST_EVENT = b"data: ", b"data: [DONE]"
ACCOUNTS = 64
START_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Door:
    """How to ask a running side: further lines of each request's head, one of `keys` in turn."""

    url: str
    model: str
    keys: tuple[str, ...]
    more: str = ""


@dataclass(frozen=True, slots=True)
class Kind:
    """What is asked for."""

    is_stream: bool
    size: int
    callers: int

    @property
    def name(self) -> str:
        return f"{'stream' if self.is_stream else 'whole'}, {self.size / 1000:g} KB"


KINDS = tuple(
    Kind(is_stream, size, callers) for is_stream in (False, True) for size in (SMALL, LARGE) for callers in (1, 16)
)


@dataclass(slots=True)
class Seen:
    """Seconds of each call, and to the first event of each stream; and of the whole run."""

    calls: list[float] = field(default_factory=list)
    firsts: list[float] = field(default_factory=list)
    seconds: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sides", default=",".join(SIDES), help=f"some of {', '.join(SIDES)}, by commas")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the figures are written")
    chosen = parser.parse_args()
    sides = chosen.sides.split(",")
    if unknown := set(sides) - set(SIDES):
        parser.error(f"--sides: there is no {', '.join(sorted(unknown))}")
    machine = this_machine()
    seen: dict[tuple[Kind, str], list[Seen]] = {(kind, side): [] for kind in KINDS for side in sides}
    with upstream() as url:
        for _ in range(chosen.rounds):
            for side in sides:
                print(f"{side} …", file=sys.stderr, flush=True)
                with (
                    tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as folder,
                    SIDES[side](Path(folder), url) as door,
                ):
                    for kind, one in measured(door, chosen.seconds).items():
                        seen[kind, side].append(one)
    notes = [
        f"Medians of {chosen.rounds} rounds of {chosen.seconds:g} s, in which the sides take turns; percentiles over "
        "all rounds. What is added is a percentile less the bare upstream's.",
        "Ours holds and settles each call by two commits, the second durable, and keeps its answer; the others keep "
        "nothing.",
    ]
    Result("relay", figures(seen), notes, machine).show_and_write(chosen.results)


def figures(seen: dict[tuple[Kind, str], list[Seen]]) -> list[dict[str, Any]]:
    rows = []
    for (kind, side), rounds in seen.items():
        calls, firsts = _sorted(rounds, "calls"), _sorted(rounds, "firsts")
        bare = _sorted(seen.get((kind, "bare"), []), "calls")
        rows.append(
            {
                "what": kind.name,
                "callers": kind.callers,
                "side": side,
                "per second": round(statistics.median(len(one.calls) / one.seconds for one in rounds), 1),
                "p50 ms": _milliseconds(calls, 50),
                "p99 ms": _milliseconds(calls, 99),
                "first event p50 ms": _milliseconds(firsts, 50) if firsts else None,
                "added p50 ms": _difference(calls, bare, 50) if side != "bare" else None,
                "added p99 ms": _difference(calls, bare, 99) if side != "bare" else None,
            }
        )
    return rows


def _sorted(rounds: Sequence[Seen], name: str) -> list[float]:
    return sorted(seconds for one in rounds for seconds in getattr(one, name))


def _milliseconds(sorted_seconds: Sequence[float], percent: int) -> float:
    return round(1000 * sorted_seconds[len(sorted_seconds) * percent // 100], 2)


def _difference(ours: Sequence[float], bare: Sequence[float], percent: int) -> float | None:
    return round(_milliseconds(ours, percent) - _milliseconds(bare, percent), 2) if bare else None


# ---------------------------------------------------------------- the sides


@contextmanager
def upstream() -> Iterator[str]:
    """Its address up to /chat/completions. It has the callers' cores."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.upstream", str(port)]
    with subprocess.Popen(command, preexec_fn=on_the_clients_cores) as process:
        try:
            until(lambda: _is_listening(port), START_SECONDS, "the upstream listened")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()


def _is_listening(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


@contextmanager
def bare(_folder: Path, url: str) -> Iterator[Door]:
    yield Door(url.removesuffix("/v1"), MODEL, ("none",))


@contextmanager
def ours(folder: Path, url: str) -> Iterator[Door]:
    data_dir, port = folder / "data", free_port()
    customers = open_accounts(data_dir / "fluxserve.sqlite", ACCOUNTS)
    environment = {
        "FLUXSERVE_DATA_DIR": str(data_dir),
        "FLUXSERVE_PORT": str(port),
        "FLUXSERVE_REQUESTS_PER_MINUTE": "0",
        **relayed({"there": {"url": url, "key": "none"}}, {MODEL: {"upstreams": ["there"]}}),
    }
    with served([sys.executable, "-m", "benchmarks.idle_server"], f"http://127.0.0.1:{port}/healthz", environment):
        yield Door(f"http://127.0.0.1:{port}", MODEL, tuple(customer.key for customer in customers))


@contextmanager
def litellm(folder: Path, url: str) -> Iterator[Door]:
    programs, port = peers.install("litellm"), free_port()
    config = {
        "model_list": [
            {"model_name": MODEL, "litellm_params": {"model": f"openai/{MODEL}", "api_base": url, "api_key": "none"}}
        ],
        "litellm_settings": {"telemetry": False},
        "general_settings": {"master_key": "sk-benchmark"},
    }
    (folder / "config.yaml").write_text(json.dumps(config))  # which is YAML
    command = [str(programs / "litellm"), "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)]
    environment = {"LITELLM_LOG": "ERROR", "PATH": f"{programs}:{os.environ['PATH']}"}
    with served(command, f"http://127.0.0.1:{port}/health/liveliness", environment, folder):
        yield Door(f"http://127.0.0.1:{port}", MODEL, ("sk-benchmark",))


@contextmanager
def portkey(folder: Path, url: str) -> Iterator[Door]:
    programs, port = peers.install_of_node("@portkey-ai/gateway"), free_port()
    command = [str(programs / "gateway"), f"--port={port}", "--headless"]
    # It takes addresses on the machine itself only if they are listed.
    environment = {
        "TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost",
        "NODE_ENV": "production",
        "PATH": peers.WITH_NODE,
    }
    with served(command, f"http://127.0.0.1:{port}/", environment, folder):
        more = f"\r\nx-portkey-provider: openai\r\nx-portkey-custom-host: {url}"
        yield Door(f"http://127.0.0.1:{port}", MODEL, ("none",), more)


SIDES: dict[str, Callable[[Path, str], Any]] = {"bare": bare, "ours": ours, "litellm": litellm, "portkey": portkey}


# ---------------------------------------------------------------- the callers


def measured(door: Door, seconds: float) -> dict[Kind, Seen]:
    """In a process of its own, which begins anew instead of being forked."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as callers:
        return callers.submit(_measured, door, seconds).result()


def _measured(door: Door, seconds: float) -> dict[Kind, Seen]:
    on_the_clients_cores()
    return {kind: asyncio.run(_ask_again_and_again(door, kind, seconds)) for kind in KINDS}


async def _ask_again_and_again(door: Door, kind: Kind, seconds: float) -> Seen:
    keys, body, seen = itertools.cycle(door.keys), request_body(door.model, kind), Seen()
    connections = [await _Asking.open(door.url) for _ in range(kind.callers)]

    async def caller(connection: "_Asking", until: float) -> None:
        while True:
            asked = time.perf_counter()
            first = await connection.ask(next(keys), body, door.more)
            now = time.perf_counter()
            seen.calls.append(now - asked)
            if first:
                seen.firsts.append(first - asked)
            if now >= until:
                return

    for length in (min(1.0, seconds), seconds):  # the first to warm up
        seen.calls.clear()
        seen.firsts.clear()
        began = time.perf_counter()
        await asyncio.gather(*(caller(connection, began + length) for connection in connections))
        seen.seconds = time.perf_counter() - began
    for connection in connections:
        connection.close()
    return seen


def request_body(model: str, kind: Kind) -> bytes:
    """A conversation of that size: text, or a picture within it."""

    def body(filling: str) -> bytes:
        text: dict[str, Any] = {"type": "text", "text": filling if kind.size < LARGE else "What is this?"}
        picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{filling}"}}
        content = [text] if kind.size < LARGE else [text, picture]
        values = {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 100}
        return json.dumps({**values, "stream": True} if kind.is_stream else values).encode()

    return body("A" * (kind.size - len(body(""))))


class _Asking:
    """A keep-alive connection that does nothing it need not."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, url: str) -> "_Asking":
        host, _, port = url.removeprefix("http://").partition(":")
        return cls(*await asyncio.open_connection(host, int(port)))

    async def ask(self, key: str, body: bytes, more: str) -> float:
        """When the first event of a stream was there; 0 for an answer that is none."""
        head = (
            f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}{more}"
        )
        self._writer.write(head.encode() + END_OF_HEAD + body)
        await self._writer.drain()
        told = (await self._reader.readuntil(END_OF_HEAD)).lower()
        if not told.startswith(b"http/1.1 200"):
            rest = await self._reader.read(1000)
            raise RuntimeError(f"it answered {(told + rest).decode(errors='replace')}")
        if length := told.partition(LENGTH)[2]:
            await self._reader.readexactly(int(length.partition(b"\r\n")[0]))
            return 0.0
        return await self._stream()

    async def _stream(self) -> float:
        """Chunks to the last one."""
        first, tail, is_stream = 0.0, b"", False
        while size := int(await self._reader.readline(), 16):
            data = (await self._reader.readexactly(size + 2))[:-2]
            is_stream = is_stream or FIRST_EVENT in data
            first = first or time.perf_counter()
            tail = (tail + data)[-100:]
        await self._reader.readline()
        if is_stream and LAST_EVENT not in tail:
            raise RuntimeError(f"a stream ended with {tail.decode(errors='replace')}")
        return first if is_stream else 0.0

    def close(self) -> None:
        self._writer.close()


if __name__ == "__main__":
    main()
