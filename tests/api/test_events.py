"""A task followed as it is drawn: what happens comes as it happens, and the end comes once and last (G18)."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from fluxserve.api import waiting
from fluxserve.api.dialects.piapi import events
from fluxserve.domain.task import Completed, Errored, GivenBack
from tests.api.conftest import KEY, Door, picture

pytestmark = pytest.mark.anyio

SOON = 5.0  # seconds, in which whatever is to come has come


@dataclass
class Event:
    id: int
    name: str
    data: dict[str, Any]


class Reader:
    """A client of the app itself, byte by byte: httpx would wait for the end of what has none. While `takes` is not set
    it takes nothing, as one behind a full line."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.takes = asyncio.Event()
        self.takes.set()
        self.chunks = 0
        self._read: asyncio.Queue[bytes] = asyncio.Queue()
        self._left = b""
        self.is_gone = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.is_gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])
            return
        await self.takes.wait()
        self.chunks += 1
        self._read.put_nowait(message.get("body", b""))

    async def block(self) -> str:
        """The next lines up to an empty one; "" at the end."""
        while b"\n\n" not in self._left:
            async with asyncio.timeout(SOON):
                part = await self._read.get()
            if not part:
                assert self._left == b""
                return ""
            self._left += part
        block, _, self._left = self._left.partition(b"\n\n")
        return block.decode()

    async def event(self) -> Event | None:
        """None at the end."""
        block = await self.block()
        if not block:
            return None
        names, values = zip(*(line.split(": ", 1) for line in block.split("\n")), strict=True)
        assert names == ("id", "event", "data")
        return Event(int(values[0]), values[1], json.loads(values[2]))

    async def expect(self) -> Event:
        event = await self.event()
        assert event is not None
        return event

    async def all(self) -> list[Event]:
        return [event async for event in self._until_the_end()]

    async def _until_the_end(self) -> AsyncIterator[Event]:
        while event := await self.event():
            yield event


@asynccontextmanager
async def following(door: Door, task_id: str, last_event_id: str | None = None) -> AsyncIterator[Reader]:
    reader = Reader()
    headers = [(b"host", b"fluxserve.test"), (b"x-api-key", KEY.encode())]
    if last_event_id is not None:
        headers.append((b"last-event-id", last_event_id.encode()))
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},  # as uvicorn's
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": f"/api/v1/task/{task_id}/events",
        "root_path": "",
        "query_string": b"",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("fluxserve.test", 80),
    }
    following = asyncio.create_task(door.app(scope, reader.receive, reader.send))
    try:
        yield reader
    finally:
        reader.is_gone.set()
        reader.takes.set()
        await asyncio.wait_for(following, SOON)


async def test_states_steps_and_previews_come_as_they_happen_and_the_end_is_all_that_a_poll_tells(
    each_door: Door,
) -> None:
    door = each_door
    task_id = await door.create()
    async with following(door, task_id) as reader:
        begun = [await reader.expect()]
        held = await door.claimed(task_id)
        begun.append(await reader.expect())
        await door.queue.progress(held, 1, 4)
        begun.append(await reader.expect())
        await door.queue.progress(held, 2, 4, b"a small png")
        begun.append(await reader.expect())
        await door.queue.finish(held, Completed((picture("a"),)))
        end = await reader.expect()
        assert await reader.event() is None

    preview = f"data:image/png;base64,{base64.b64encode(b'a small png').decode()}"
    assert [event.data for event in begun] == [
        {"task_id": task_id, "status": "pending", "step": 0, "steps": 0},
        {"task_id": task_id, "status": "processing", "step": 0, "steps": 0},
        {"task_id": task_id, "status": "processing", "step": 1, "steps": 4},
        {"task_id": task_id, "status": "processing", "step": 2, "steps": 4, "preview": preview},
    ]
    assert {event.name for event in begun} == {"progress"}
    assert (end.name, end.data) == ("completed", await door.data(task_id))
    ids = [event.id for event in [*begun, end]]
    assert ids == sorted(set(ids))
    assert reader.status == 200
    assert reader.headers[b"content-type"].startswith(b"text/event-stream")
    assert reader.headers[b"cache-control"] == b"no-store"


async def test_a_task_that_fails_or_is_cancelled_ends_with_why(door: Door) -> None:
    failed, cancelled = await door.create(), await door.create()
    async with following(door, failed) as one, following(door, cancelled) as other:
        assert (await one.expect()).name == (await other.expect()).name == "progress"
        await door.queue.finish(await door.claimed(failed), Errored("drawing_failed", "it broke"))
        await door.client.delete(f"/api/v1/task/{cancelled}")
        ends = [(await reader.all())[-1] for reader in (one, other)]

    assert [(end.name, end.data["error"]["code"]) for end in ends] == [("failed", 1200), ("failed", 1300)]


async def test_a_task_that_is_tried_again_goes_on_with_growing_ids(door: Door) -> None:
    task_id = await door.create()
    async with following(door, task_id) as reader:
        held = await door.claimed(task_id)
        await door.queue.progress(held, 3, 4, b"a preview")
        await door.queue.finish(held, GivenBack())
        while (event := await reader.expect()).data["status"] != "pending" or event.id == 0:
            pass
        assert event.data == {"task_id": task_id, "status": "pending", "step": 0, "steps": 0}
        await door.end(task_id, Completed((picture("a"),)))
        assert (await reader.all())[-1].id > event.id


async def test_who_comes_back_with_the_last_id_hears_nothing_twice_and_misses_no_end(door: Door) -> None:
    task_id = await door.create()
    held = await door.claimed(task_id)
    heard: list[Event] = []
    for step in (1, 2, 3):
        await door.queue.progress(held, step, 4)
        async with following(door, task_id, str(heard[-1].id) if heard else None) as reader:
            heard.append(await reader.expect())
    await door.queue.finish(held, Completed((picture("a"),)))
    async with following(door, task_id, str(heard[-1].id)) as reader:
        heard += await reader.all()

    assert [event.data.get("step") for event in heard] == [1, 2, 3, None]
    assert [event.name for event in heard] == ["progress"] * 3 + ["completed"]
    assert [event.id for event in heard] == sorted({event.id for event in heard})


async def test_a_hundred_times_coming_back_leaves_no_gap_and_no_doubles(door: Door) -> None:
    task_id = await door.create()
    held = await door.claimed(task_id)
    heard: list[Event] = []
    for step in range(100):
        await door.queue.progress(held, step, 100)
        async with following(door, task_id, str(heard[-1].id) if heard else None) as reader:
            heard.append(await reader.expect())

    assert [event.data["step"] for event in heard] == list(range(100))
    assert [event.id for event in heard] == sorted({event.id for event in heard})
    assert door.queue.signals._listeners == {}


async def test_once_the_end_was_heard_there_is_nothing_more(door: Door) -> None:
    task_id = await door.create()
    await door.end(task_id, Completed((picture("a"),)))
    for _ in range(2):  # without an id the end comes every time
        async with following(door, task_id) as reader:
            (end,) = await reader.all()

    answer = await door.client.get(f"/api/v1/task/{task_id}/events", headers={"Last-Event-ID": str(end.id)})

    assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize("last_event_id", ["", "x", "-1", "1.5", "9" * 9, "9" * 400, "٣"])
async def test_an_id_that_is_none_of_ours_is_taken_for_none(door: Door, last_event_id: str) -> None:
    waiting, done = await door.create(), await door.create()
    await door.end(done, Completed((picture("a"),)))

    async with following(door, waiting, last_event_id) as reader:
        assert (await reader.expect()).data["status"] == "pending"
        await door.end(waiting, Errored("drawing_failed", "it broke"))
        assert (await reader.all())[-1].name == "failed"
    async with following(door, done, last_event_id) as reader:
        assert [event.name for event in await reader.all()] == ["completed"]


async def test_for_a_slow_reader_nothing_is_heaped_up(door: Door) -> None:
    task_id = await door.create()
    async with following(door, task_id) as reader:
        await reader.expect()
        held = await door.claimed(task_id)
        reader.takes.clear()
        for step in range(200):
            await door.queue.progress(held, step, 200, bytes(10_000))
        reader.takes.set()
        seen = [(await reader.expect()).data["step"]]
        while seen[-1] != 199:
            seen.append((await reader.expect()).data["step"])

    assert len(seen) <= 2  # the one that it was handed before it stood still, and the newest


async def test_a_reader_that_goes_away_leaves_nothing_behind(door: Door) -> None:
    task_id = await door.create()
    async with following(door, task_id) as reader:
        await reader.expect()
        assert task_id in door.queue.signals._listeners

    assert door.queue.signals._listeners == {}


async def test_while_nothing_happens_a_comment_keeps_the_line_open(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(events, "COMMENT_SECONDS", 0.02)
    async with following(door, await door.create()) as reader:
        await reader.expect()
        assert await reader.block() == ": nothing new"


async def test_a_change_without_a_signal_is_seen_all_the_same(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "LOOK_SECONDS", 0.01)
    task_id = await door.create()
    async with following(door, task_id) as reader:
        await reader.expect()
        monkeypatch.setattr(door.queue.signals, "give", lambda *_: None)  # as another process's change on SQLite
        await door.claimed(task_id)
        assert (await reader.expect()).data["status"] == "processing"


async def test_anothers_task_is_not_there(door: Door) -> None:
    task_id = await door.create()
    async with door.stranger() as stranger:
        answer = await stranger.get(f"/api/v1/task/{task_id}/events")

    assert answer.status_code == 404
    assert answer.json() == {"code": 404, "data": None, "message": f"no task has the id '{task_id}'"}


async def test_nothing_is_followed_without_a_key(door: Door) -> None:
    async with door.client_with(None) as nobody:
        assert (await nobody.get(f"/api/v1/task/{await door.create()}/events")).status_code == 401


async def test_an_account_follows_so_many_tasks_at_once_and_no_more(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "MOST_FOLLOWERS", 2)
    task_id = await door.create()
    path = f"/api/v1/task/{task_id}/events"
    async with following(door, task_id) as one:
        async with following(door, task_id) as other:
            await one.expect()
            await other.expect()

            refused = await door.client.get(path)

            assert refused.status_code == 429
            assert refused.json()["message"].startswith("events: 2 of this account's tasks are followed already")
            assert int(refused.headers["retry-after"]) > 0
        async with following(door, task_id) as another:
            await another.expect()
