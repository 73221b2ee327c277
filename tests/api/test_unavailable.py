"""What callers are told while the database is gone or the disk is full, and that they lose nothing by it."""

import asyncio
import base64
import io
import sqlite3
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from PIL import Image

from fluxserve.api import waiting
from fluxserve.storage import room
from tests.api.conftest import ADMIN_KEY, Door, cat

pytestmark = pytest.mark.anyio

Usage = namedtuple("Usage", "total used free")


def picture() -> str:
    encoded = io.BytesIO()
    Image.new("RGB", (256, 256)).save(encoded, "PNG")
    return base64.b64encode(encoded.getvalue()).decode()


def over_a_picture() -> dict[str, object]:
    return {
        "model": "Qubico/flux1-schnell",
        "task_type": "img2img",
        "input": {"prompt": "a little cat", "image": picture()},
    }


@contextmanager
def failing(door: Door, act: str, *, after: bool = False) -> Iterator[None]:
    """The database fails at each `act` of its driver, before it is done or only then."""
    dialect: Any = door.queue._database.engine.dialect
    real = getattr(dialect, act)

    def fail(*arguments: Any) -> None:
        if after:
            real(*arguments)
        raise sqlite3.OperationalError("disk I/O error")

    setattr(dialect, act, fail)
    try:
        yield
    finally:
        setattr(dialect, act, real)


@contextmanager
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every disk, as soon as it is looked at."""
    with monkeypatch.context() as patch:
        patch.setattr(room, "LOOK_SECONDS", 0.0)
        patch.setattr("shutil.disk_usage", lambda _: Usage(100, 100, 0))
        yield


def left_on_the_shelf(door: Door) -> list[Path]:
    return list(door.shelf.path("ab.png").parents[1].rglob("*.png"))


def try_later(answer: httpx.Response) -> str:
    """What it says."""
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["Retry-After"]) > 0
    body = answer.json()
    words: str = body.get("message") or body["error"]
    return words


async def test_every_door_says_503_and_when_to_come_back_while_the_database_is_gone(door: Door) -> None:
    with failing(door, "do_execute"):
        for answer in (
            await door.client.post("/api/v1/task", json=cat()),
            await door.client.get("/api/v1/task/anything"),
            await door.client.get("/account/info"),
            await door.client.get(f"/files/{'a' * 32}.png"),
            await door.client.get("/admin/accounts", headers={"X-API-Key": ADMIN_KEY}),
        ):
            assert "the database can't be reached just now" in try_later(answer)

    await door.create()


async def test_a_follower_is_not_sent_away_while_the_database_is_gone(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "LOOK_SECONDS", 0.05)
    task_id = await door.create()
    following = asyncio.create_task(door.client.get(f"/api/v1/task/{task_id}/events"))
    while not door.queue.signals._listeners:
        await asyncio.sleep(0.01)
    with failing(door, "do_execute"):
        await asyncio.sleep(0.3)
        assert not following.done()
    await door.client.delete(f"/api/v1/task/{task_id}")

    assert "event: failed" in (await following).text


async def test_a_picture_stays_if_the_task_that_needs_it_may_have_been_accepted(door: Door) -> None:
    headers = {"Idempotency-Key": "one"}
    with failing(door, "do_commit", after=True):
        try_later(await door.client.post("/api/v1/task", json=over_a_picture(), headers=headers))

    answer = await door.client.post("/api/v1/task", json=over_a_picture(), headers=headers)
    (task,) = await door.queue.open_tasks(door.account_id)
    assert answer.json()["data"]["task_id"] == task.id
    assert len(left_on_the_shelf(door)) == 1


@pytest.mark.parametrize("body", [cat(), over_a_picture()], ids=["of words", "of a picture"])
async def test_a_full_disk_refuses_what_is_new_and_charges_nothing_until_there_is_room(
    door: Door, monkeypatch: pytest.MonkeyPatch, body: dict[str, object]
) -> None:
    before = await door.accounts.get(door.account_id)
    with full_disk(monkeypatch):
        assert "disk is nearly full" in try_later(await door.client.post("/api/v1/task", json=body))

    assert await door.accounts.get(door.account_id) == before
    assert left_on_the_shelf(door) == []
    monkeypatch.setattr(room, "LOOK_SECONDS", 0.0)
    assert (await door.client.post("/api/v1/task", json=body)).status_code == 200


async def test_a_full_disk_takes_no_uploads_but_tells_of_what_there_is(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = await door.create()
    with full_disk(monkeypatch):
        upload = {"file_name": "cat.png", "file_data": picture()}
        try_later(await door.client.post("/api/ephemeral_resource", json=upload))
        assert (await door.client.get(f"/api/v1/task/{task_id}")).status_code == 200
        assert (await door.client.delete(f"/api/v1/task/{task_id}")).status_code == 200


async def test_a_request_that_comes_again_is_told_of_its_task_though_the_disk_is_full(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = {"Idempotency-Key": "one"}
    first = await door.client.post("/api/v1/task", json=cat(), headers=headers)
    with full_disk(monkeypatch):
        again = await door.client.post("/api/v1/task", json=cat(), headers=headers)

    assert again.json()["data"]["task_id"] == first.json()["data"]["task_id"]


async def test_a_picture_that_cant_be_written_is_no_fault_of_its_caller(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_key: str, _data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(door.shelf, "put", full)

    assert "can't be stored" in try_later(await door.client.post("/api/v1/task", json=over_a_picture()))
