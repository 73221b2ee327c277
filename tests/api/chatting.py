"""The chat door with upstreams of the tests' own behind it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from fluxserve.domain.completion import Rate
from fluxserve.relay import Route, Upstream
from tests.api.conftest import Door, open_door
from tests.relay.upstream import KEY, Say, Stub, stub

CREDIT = 10_000_000
RATE = Rate(prompt=1_000_000, completion=4_000_000)  # one point a token of the prompt, four one of the completion
MOST_OUTPUT = 100
TIMES = {"connect_seconds": 2.0, "first_byte_seconds": 0.5, "gap_seconds": 0.5, "answer_seconds": 2.0}


@dataclass
class ChatDoor:
    door: Door
    upstreams: list[Stub]

    async def ask(self, **fields: Any) -> Any:
        headers = fields.pop("headers", {})
        return await self.door.client.post("/v1/chat/completions", json=question(**fields), headers=headers)

    async def points(self) -> tuple[int, int]:
        """What the account has spent, and what is held of it."""
        account = await self.door.accounts.get(self.door.account_id)
        return CREDIT - account.balance - account.frozen, account.frozen

    async def settled(self) -> int:
        """What the account has spent, once nothing is held."""
        async with asyncio.timeout(10):
            while (await self.points())[1]:
                await asyncio.sleep(0.01)
        return (await self.points())[0]


def question(text: str = "Hi", **fields: Any) -> dict[str, Any]:
    return {"model": "a-text-model", "messages": [{"role": "user", "content": text}], **fields}


def tokens(text: str = "Hi", **fields: Any) -> int:
    """Of that question, by the rule."""
    size = 0
    left: list[Any] = [question(text, **fields)]
    while left:
        match left.pop():
            case str(words):
                size += len(words.encode())
            case dict(inner):
                left += [*inner, *inner.values()]
            case list(items):
                left += items
    return -(-size // 4)


@asynccontextmanager
async def chat_door(
    engine: Engine,
    folder: Path,
    *scripts: Say,
    model: str = "a-text-model",
    upstream_model: str | None = None,
    rate: Rate = RATE,
    times: dict[str, float] | None = None,
    **more: Any,
) -> AsyncIterator[ChatDoor]:
    """A door whose model is answered for by one upstream for each of the scripts."""
    async with AsyncExitStack() as stack:
        stubs = [await stack.enter_async_context(stub(script)) for script in scripts]
        upstreams = tuple(
            Upstream(f"upstream-{n}", each.url, KEY, **{**TIMES, **(times or {})}) for n, each in enumerate(stubs)
        )
        routes = [Route(model, upstreams, rate, upstream_model or model, MOST_OUTPUT)]
        door = await stack.enter_async_context(open_door(engine, folder, routes=routes, **more))
        yield ChatDoor(door, stubs)
