"""Many chat completions at a real server whose upstreams do whatever upstreams do, and what each was charged.

    python -m tests.end_to_end.chat_calls [--calls 1000] [--seed 1]

What a call meets is written in its prompt, so what it must cost is known beforehand: by the usage that is told, by the
written rule where none is, and nothing where nothing came.
"""

import argparse
import asyncio
import contextlib
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx

from fluxserve.tasks import open_sqlite
from fluxserve.tasks.audit import audit
from tests.end_to_end.serving import KEY, Server, free_port, running
from tests.end_to_end.text_model import relayed
from tests.relay.upstream import (
    DONE,
    Heard,
    Say,
    answering,
    chunk,
    completion,
    cut,
    hang,
    status,
    stream,
    stub,
    told_stream,
    usage,
    whole,
)

CALLERS = 16
POINTS = 10_000_000_000
INPUT, OUTPUT = 15, 60  # points a token
MOST_OUTPUT = 200
UPSTREAM_KEY = "sk-canary-of-the-upstream"
TIMES = {"connect_seconds": 5.0, "first_byte_seconds": 2.0, "gap_seconds": 2.0, "answer_seconds": 10.0}


@dataclass(frozen=True, slots=True)
class Call:
    """`words` are said in answer, one in a piece; `prompt` and `said` are what usage may tell of it."""

    way: str
    words: int
    prompt: int
    said: int

    @property
    def text(self) -> str:
        return json.dumps([self.way, self.words, self.prompt, self.said])

    @property
    def body(self) -> dict[str, Any]:
        fields = {"stream": True} if WAYS[self.way].is_stream else {}
        return {"model": "text", "messages": [{"role": "user", "content": self.text}], **fields}

    @property
    def pieces(self) -> list[bytes]:
        return [chunk({"content": "word "}) for _ in range(self.words)]

    @property
    def told(self) -> dict[str, Any]:
        return usage(self.prompt, self.said)


@dataclass(frozen=True, slots=True)
class Way:
    """What the first and the second upstream say to a call, and what it must cost. `leaves` where the caller does."""

    first: Callable[[Call], Say]
    price: Callable[[Call], int]
    second: Callable[[Call], Say] = lambda _: status(500)
    is_stream: bool = False
    leaves: bool = False


def by_usage(call: Call) -> int:
    return INPUT * call.prompt + OUTPUT * call.said


def by_rule(call: Call) -> int:
    prompt = -(-_size(call.body) // 4)
    return INPUT * prompt + OUTPUT * -(-5 * call.words // 4)


def the_prompt(call: Call) -> int:
    return INPUT * -(-_size(call.body) // 4)


def all_that_is_held(call: Call) -> int:
    return INPUT * _size(call.body) + OUTPUT * MOST_OUTPUT


def nothing(_call: Call) -> int:
    return 0


def _size(values: Any) -> int:
    if isinstance(values, dict):
        return sum(len(name) + _size(value) for name, value in values.items())
    if isinstance(values, list):
        return sum(map(_size, values))
    return len(values.encode()) if isinstance(values, str) else 0


def _whole(call: Call, **more: Any) -> Say:
    return whole(completion("word " * call.words, **more))


def _streamed(call: Call) -> Say:
    return told_stream(*call.pieces, told=call.told)


WAYS: dict[str, Way] = {
    "whole": Way(lambda call: _whole(call, usage=call.told), by_usage),
    "no usage": Way(lambda call: _whole(call), by_rule),
    "usage that can't be": Way(lambda call: _whole(call, usage=usage(-1, "x")), by_rule),
    "usage without measure": Way(lambda call: _whole(call, usage=usage(10**15, 10**15)), all_that_is_held),
    "429, then whole": Way(lambda _: status(429), by_usage, lambda call: _whole(call, usage=call.told)),
    "500, then whole": Way(lambda _: status(500), by_usage, lambda call: _whole(call, usage=call.told)),
    "cut, then whole": Way(lambda _: cut, by_usage, lambda call: _whole(call, usage=call.told)),
    "both fail": Way(lambda _: status(429), nothing),
    "refused": Way(lambda _: status(400), nothing),
    "stream": Way(_streamed, by_usage, is_stream=True),
    "stream without usage": Way(lambda call: stream(*call.pieces, DONE), by_rule, is_stream=True),
    "stream that is cut": Way(lambda call: stream(*call.pieces, is_cut=True), by_rule, is_stream=True),
    "hang, then stream": Way(lambda _: hang, by_usage, _streamed, is_stream=True),
    "500, then stream": Way(lambda _: status(500), by_usage, _streamed, is_stream=True),
    "both fail before a stream": Way(lambda _: cut, nothing, is_stream=True),
    "the caller leaves a stream": Way(
        lambda call: stream(*call.pieces, hangs=True), by_rule, is_stream=True, leaves=True
    ),
}


@dataclass
class Report:
    """`wrong` are calls that were not charged what was expected; `findings` are the audit's."""

    ways: Counter[str] = field(default_factory=Counter)
    charged: int = 0
    wrong: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)


def run(folder: Path, calls: int, seed: int | None) -> Report:
    return asyncio.run(_run(folder, calls, seed))


async def _run(folder: Path, calls: int, seed: int | None) -> Report:
    chance = random.Random(seed)
    report, ways = Report(), list(WAYS)
    async with stub(answering(_first)) as first, stub(answering(_second)) as second:
        upstreams: dict[str, object] = {
            "refuses": {"url": f"http://127.0.0.1:{free_port()}/v1", "key": UPSTREAM_KEY},
            **{name: {"url": each.url, "key": UPSTREAM_KEY, **TIMES} for name, each in (("a", first), ("b", second))},
        }
        with await asyncio.to_thread(_started, folder, upstreams) as server:
            async with httpx.AsyncClient(
                base_url=server.url, headers={"X-API-Key": KEY}, timeout=60, trust_env=False
            ) as client:
                left = [
                    Call(ways[number % len(ways)], chance.randint(1, 40), chance.randint(1, 90), chance.randint(0, 190))
                    for number in range(calls)
                ]
                expected: dict[str, Call] = {}

                async def caller() -> None:
                    while left:
                        call = left.pop()
                        expected[await _make(client, call)] = call

                await asyncio.gather(*(caller() for _ in range(CALLERS)))
            await asyncio.to_thread(_until_nothing_is_held, server)
            _compare(server, expected, report)
            assert server.stop() == 0
        _audit(server, report)
    return report


def kill(folder: Path, under_way: int) -> Report:
    """Kill the server while so many streams are under way, and start it again."""
    return asyncio.run(_kill(folder, under_way))


async def _kill(folder: Path, under_way: int) -> Report:
    report = Report()
    call = Call("the caller leaves a stream", 5, 1, 1)
    async with stub(answering(_first)) as there:
        with await asyncio.to_thread(_started, folder, {"a": {"url": there.url}}) as server:
            async with httpx.AsyncClient(base_url=server.url, headers={"X-API-Key": KEY}, trust_env=False) as client:

                async def begin() -> None:
                    with contextlib.suppress(httpx.TransportError):
                        async with client.stream("POST", "/v1/chat/completions", json=call.body) as answer:
                            async for _ in answer.aiter_bytes():
                                pass

                streams = [asyncio.create_task(begin()) for _ in range(under_way)]
                while len(there.heard) < under_way:
                    await asyncio.sleep(0.02)
                ((held,),) = server.rows("SELECT SUM(held) FROM completions WHERE state = 'processing'")
                if held != under_way * all_that_is_held(call):
                    report.wrong.append(f"{held} were held")
                server.kill()
                await asyncio.gather(*streams)
            server.start()
            await asyncio.to_thread(server.wait_until, "/healthz")
            ended = server.rows("SELECT state, error_code, price FROM completions")
            ((balance, frozen),) = server.rows("SELECT balance, frozen FROM accounts")
            if ended != under_way * [("failed", "abandoned", None)] or (balance, frozen) != (POINTS, 0):
                report.wrong.append(f"after the kill: {ended}, {balance} and {frozen} held")
            assert server.stop() == 0
        _audit(server, report)
    return report


def _started(folder: Path, upstreams: dict[str, object]) -> contextlib.AbstractContextManager[Server]:
    models: dict[str, object] = {
        "text": {
            "upstreams": list(upstreams),
            "input_usd": INPUT / 10,
            "output_usd": OUTPUT / 10,
            "most_output_tokens": MOST_OUTPUT,
        }
    }
    return running(folder / "data", **relayed(upstreams, models))


def _first(heard: Heard) -> Say:
    call = _call(heard)
    return WAYS[call.way].first(call)


def _second(heard: Heard) -> Say:
    call = _call(heard)
    return WAYS[call.way].second(call)


def _call(heard: Heard) -> Call:
    return Call(*json.loads(heard.values["messages"][0]["content"]))


async def _make(client: httpx.AsyncClient, call: Call) -> str:
    """Returns the completion's id."""
    async with client.stream("POST", "/v1/chat/completions", json=call.body) as answer:
        text = b""
        async for part in answer.aiter_bytes():
            text += part
            if WAYS[call.way].leaves and text.count(b"word ") == call.words:
                break
        assert UPSTREAM_KEY.encode() not in text
        task_id: str = answer.headers["x-task-id"]
    return task_id


def _until_nothing_is_held(server: Server) -> None:
    for _ in range(500):
        if server.rows("SELECT SUM(frozen) FROM accounts") == [(0,)]:
            return
        time.sleep(0.02)
    left = server.rows("SELECT id, held FROM completions WHERE state = 'processing'")
    raise AssertionError(f"still held: {left}")


def _compare(server: Server, expected: dict[str, Call], report: Report) -> None:
    rows = dict(server.rows("SELECT id, COALESCE(price, 0) FROM completions"))
    for task_id, call in expected.items():
        must = min(WAYS[call.way].price(call), all_that_is_held(call))
        report.ways[call.way] += 1
        report.charged += rows[task_id]
        if rows[task_id] != must:
            report.wrong.append(f"{call}: {rows[task_id]} was charged, and {must} expected")
    ((balance,),) = server.rows("SELECT balance FROM accounts")
    if balance != POINTS - report.charged or rows.keys() != expected.keys():
        report.wrong.append(f"{len(rows)} completions for {len(expected)} calls, {balance} left of {POINTS}")


def _audit(server: Server, report: Report) -> None:
    engine = open_sqlite(server.data_dir / "fluxserve.sqlite")
    with engine.connect() as connection:
        report.findings += audit(connection)
    engine.dispose()
    if UPSTREAM_KEY in server.log.read_text():
        report.findings.append("the log has the upstream's key")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.end_to_end.chat_calls")
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--seed", type=int)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = run(Path(folder), chosen.calls, chosen.seed)
    for way, count in sorted(report.ways.items()):
        print(f"{count:6} {way}")
    print(f"{report.charged} points charged; wrong: {report.wrong}; audit: {report.findings}")


if __name__ == "__main__":
    main()
