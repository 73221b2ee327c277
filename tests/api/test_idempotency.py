"""A request with an Idempotency-Key can be sent again: it makes one task, costs once, and is answered alike (G6)."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import Engine, func, select

from fluxserve.domain.task import Completed, Errored
from fluxserve.tasks import open_postgresql
from fluxserve.tasks.schema import idempotency_keys
from tests.api import idempotency_races
from tests.api.conftest import Door, cat, picture
from tests.api.test_inputs import bear, png
from tests.postgresql import Postgres

pytestmark = pytest.mark.anyio

CREATE = "/api/v1/task"
KEY = {"Idempotency-Key": "my-request-1"}
DAY = 24 * 3600.0


async def test_the_answer_is_the_same_to_the_last_byte_however_far_the_task_has_come(each_door: Door) -> None:
    door = each_door
    first = await door.client.post(CREATE, json=cat(), headers=KEY)
    task_id = first.json()["data"]["task_id"]

    async def again() -> bytes:
        answer = await door.client.post(CREATE, json=cat(), headers=KEY)
        assert answer.status_code == 200
        return answer.content

    assert await again() == first.content
    held = await door.claimed(task_id)
    await door.queue.progress(held, 2, 4, b"a preview")
    assert await again() == first.content
    await door.queue.finish(held, Completed((picture("a"),)))
    assert await again() == first.content
    assert (await door.data(task_id))["status"] == "completed"
    account = await door.accounts.get(door.account_id)
    assert (account.balance, account.frozen) == (10_000_000 - 20_000, 0)


async def test_a_task_that_was_staged_or_has_failed_is_told_as_it_was_at_first(door: Door) -> None:
    await door.accounts.limit(door.account_id, 1)
    ahead = await door.create()
    first = await door.client.post(CREATE, json=cat(), headers=KEY)
    assert first.json()["data"]["status"] == "staged"

    for task_id in (ahead, first.json()["data"]["task_id"]):
        await door.end(task_id, Errored("drawing_failed", "it broke"))

    assert (await door.client.post(CREATE, json=cat(), headers=KEY)).content == first.content


async def test_a_picture_that_is_gone_meanwhile_does_not_matter(door: Door) -> None:
    door.shelf.put("aa.png", png())
    await door.end(await door.create(), Completed((picture("a"),)))
    body = bear(f"http://pictures.test/files/{'a' * 32}.png")
    first = await door.client.post(CREATE, json=body, headers=KEY)
    assert first.status_code == 200

    door.shelf.delete("aa.png")

    assert (await door.client.post(CREATE, json=body)).status_code == 400
    assert (await door.client.post(CREATE, json=body, headers=KEY)).content == first.content


async def test_without_a_key_the_same_request_is_another_task(door: Door) -> None:
    assert await door.create() != await door.create()


async def test_how_the_body_is_written_does_not_matter_but_what_it_says_does(door: Door) -> None:
    body = cat(steps=2)
    turned = {name: body[name] for name in reversed(body)}
    first = await door.client.post(CREATE, json=body, headers=KEY)

    again = await door.client.post(CREATE, content=json.dumps(turned, indent=4), headers=KEY)
    other = await door.client.post(CREATE, json=cat(steps=3), headers=KEY)

    assert again.content == first.content
    assert other.status_code == 422
    assert other.json().keys() == {"code", "data", "message"}
    assert other.json()["message"].startswith("Idempotency-Key: 'my-request-1' came before with another body")
    assert (await door.accounts.get(door.account_id)).frozen == 20_000


async def test_another_accounts_same_key_is_another_request(each_door: Door) -> None:
    door = each_door
    first = await door.client.post(CREATE, json=cat(), headers=KEY)
    async with door.stranger() as stranger:
        theirs = await stranger.post(CREATE, json=cat(steps=1), headers=KEY)
        again = await stranger.post(CREATE, json=cat(steps=1), headers=KEY)

    assert theirs.status_code == 200
    assert again.content == theirs.content
    assert theirs.json()["data"]["task_id"] != first.json()["data"]["task_id"]
    assert (await door.client.post(CREATE, json=cat(), headers=KEY)).content == first.content


async def test_another_of_the_accounts_keys_is_the_same_account(door: Door) -> None:
    first = await door.client.post(CREATE, json=cat(), headers=KEY)
    _, key = await door.accounts.create_key(door.account_id)
    async with door.client_with(key) as other:
        assert (await other.post(CREATE, json=cat(), headers=KEY)).content == first.content


async def test_what_was_refused_is_not_remembered(door: Door) -> None:
    refused = [
        await door.client.post(CREATE, json=cat(steps=99), headers=KEY),
        await door.client.post(CREATE, json=bear("no picture"), headers=KEY),
    ]
    await door.accounts.credit(door.account_id, -1.0)
    refused.append(await door.client.post(CREATE, json=cat(), headers=KEY))
    await door.accounts.credit(door.account_id, 1.0)

    assert [answer.status_code for answer in refused] == [400, 400, 402]
    assert (await door.client.post(CREATE, json=cat(steps=1), headers=KEY)).status_code == 200


@pytest.mark.parametrize("key", ["", "k" * 256, "a\tb", "ü"])
async def test_a_bad_key_is_refused_by_name_value_and_what_is_allowed(door: Door, key: str) -> None:
    answer = await door.client.post(CREATE, json=cat(), headers={b"Idempotency-Key": key.encode("latin-1")})

    assert answer.status_code == 400
    assert answer.json()["message"].startswith(f"Idempotency-Key: {ascii(key)[:70]}")
    assert "allowed are 1 to 255 printable ASCII characters" in answer.json()["message"]
    assert (await door.accounts.get(door.account_id)).frozen == 0


async def test_a_key_may_have_255_characters(each_door: Door) -> None:
    headers = {"Idempotency-Key": "~" * 255}
    answers = [await each_door.client.post(CREATE, json=cat(), headers=headers) for _ in "ab"]

    assert answers[0].content == answers[1].content
    assert answers[0].status_code == 200


async def test_a_key_counts_for_a_day_and_is_then_forgotten(each_door: Door) -> None:
    door = each_door
    first = await door.client.post(CREATE, json=cat(), headers=KEY)

    door.clock.ahead = DAY - 5
    assert (await door.client.post(CREATE, json=cat(), headers=KEY)).content == first.content
    door.clock.ahead = DAY + 1
    second = await door.client.post(CREATE, json=cat(steps=2), headers=KEY)
    assert second.json()["data"]["task_id"] != first.json()["data"]["task_id"]

    await door.queue.forget_old_repeats()
    assert await _remembered(door) == 1
    door.clock.ahead = 2 * DAY + 2
    await door.queue.forget_old_repeats()
    assert await _remembered(door) == 0


async def _remembered(door: Door) -> int:
    count: int = await door.queue._database.read(
        lambda connection: connection.execute(select(func.count()).select_from(idempotency_keys)).scalar_one()
    )
    return count


@pytest.fixture
async def slow_web() -> AsyncIterator[tuple[str, asyncio.Event, asyncio.Event]]:
    """The address of a picture, when somebody has asked for it, and when it may be answered."""
    asked, may_answer = asyncio.Event(), asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await may_answer.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + png())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/picture", asked, may_answer


async def test_while_the_first_is_taken_in_the_others_are_told_when_to_come_back(
    door: Door, slow_web: tuple[str, asyncio.Event, asyncio.Event]
) -> None:
    address, asked, may_answer = slow_web
    sending = asyncio.create_task(door.client.post(CREATE, json=bear(address), headers=KEY))
    await asked.wait()

    twin = await door.client.post(CREATE, json=bear(address), headers=KEY)
    async with door.stranger() as stranger:
        other = await stranger.post(CREATE, json=cat(), headers=KEY)
    may_answer.set()
    first = await sending

    assert twin.status_code == 409
    assert twin.json().keys() == {"code", "data", "message"}
    assert int(twin.headers["retry-after"]) > 0
    assert other.status_code == 200
    assert first.status_code == 200
    again = await door.client.post(CREATE, json=bear(address), headers=KEY)
    assert again.content == first.content
    assert len(await door.queue.kept_keys()) == 1


async def test_a_request_that_is_broken_off_leaves_its_key_free(
    door: Door, slow_web: tuple[str, asyncio.Event, asyncio.Event]
) -> None:
    address, asked, may_answer = slow_web
    sending = asyncio.create_task(door.client.post(CREATE, json=bear(address), headers=KEY))
    await asked.wait()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    may_answer.set()

    assert (await door.client.post(CREATE, json=bear(address), headers=KEY)).status_code == 200


# ---------------------------------------------------------------- twins at the same time

RACES = 40


def check(report: idempotency_races.Report) -> None:
    print(report)
    assert report.faults == []
    assert report.tasks == report.holds == report.races


@pytest.fixture(params=["sqlite", "postgresql"])
def engines(request: pytest.FixtureRequest) -> list[Engine]:
    """Of one database, one for each server: SQLite has but one."""
    if request.param == "sqlite":
        return [request.getfixturevalue("sqlite")]
    server: Postgres = request.getfixturevalue("postgresql")
    address = server.emptied()
    return [open_postgresql(address), open_postgresql(address)]


async def test_of_twenty_twins_at_the_same_time_one_makes_a_task(engines: list[Engine], tmp_path: Any) -> None:
    check(await idempotency_races.race(engines, tmp_path, races=RACES, seed=6))


@pytest.mark.nightly
async def test_of_twenty_twins_a_thousand_times_one_makes_a_task(engines: list[Engine], tmp_path: Any) -> None:
    check(await idempotency_races.race(engines, tmp_path, races=1000, seed=time.time_ns()))
