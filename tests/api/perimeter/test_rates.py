"""How often a key may come, and how many keys one may try."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from limits.aio.storage import MemoryStorage
from sqlalchemy import Engine

from fluxserve.api.perimeter import Rates
from fluxserve.api.perimeter.clients import client_at
from fluxserve.api.perimeter.rates import WRONG_KEYS_PER_MINUTE
from fluxserve.domain.errors import TooMany
from tests.api.conftest import KEY, Door, cat, open_door

pytestmark = pytest.mark.anyio

CREATE = "/api/v1/task"
UNKNOWN = f"{CREATE}/00000000-0000-4000-8000-000000000000"
REQUESTS_PER_MINUTE = 300
NOON = 1_800_000_000.0  # or any other whole minute


class Clock:
    """Stands still, unless a test moves it."""

    now = NOON + 10


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "time", lambda: clock.now)
    return clock


@pytest.fixture
async def door(sqlite: Engine, tmp_path: Path) -> AsyncIterator[Door]:
    async with open_door(sqlite, tmp_path, rates=Rates(REQUESTS_PER_MINUTE)) as door:
        yield door


async def statuses(door: Door, count: int, key: str = "") -> list[int]:
    """Of so many requests, with the tests' key or another one."""
    headers = [{"X-API-Key": key.format(number)} if key else {} for number in range(count)]
    return [(await door.client.get(UNKNOWN, headers=each)).status_code for each in headers]


async def test_a_key_that_comes_too_often_is_told_when_to_come_again(door: Door) -> None:
    assert set(await statuses(door, REQUESTS_PER_MINUTE)) == {404}

    answer = await door.client.post(CREATE, json=cat())

    assert answer.status_code == 429
    assert answer.json().keys() == {"code", "data", "message"}
    assert answer.json()["code"] == 429
    assert f"more than {REQUESTS_PER_MINUTE} in a minute" in answer.json()["message"]
    assert "FLUXSERVE_REQUESTS_PER_MINUTE" in answer.json()["message"]
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert (await door.accounts.get(door.account_id)).frozen == 0


async def test_another_key_is_not_held_up(door: Door) -> None:
    await statuses(door, REQUESTS_PER_MINUTE + 1)
    await door.accounts.set_first_key(door.account_id, "another key")

    assert await statuses(door, 1, "another key") == [404]


async def test_whoever_tries_one_key_after_another_is_told_to_come_later(door: Door) -> None:
    assert set(await statuses(door, WRONG_KEYS_PER_MINUTE, "guess {}")) == {401}

    answer = await door.client.get(UNKNOWN, headers={"X-API-Key": "one more guess"})

    assert answer.status_code == 429
    assert answer.json()["code"] == 429
    assert answer.json()["message"].startswith(
        f"keys: {WRONG_KEYS_PER_MINUTE} wrong ones in a minute came from 127.0.0.1"
    )
    assert 1 <= int(answer.headers["retry-after"]) <= 60


async def test_guesses_from_an_address_do_not_stop_the_programs_behind_it_that_have_a_key(door: Door) -> None:
    await statuses(door, WRONG_KEYS_PER_MINUTE + 10, "guess {}")

    assert await statuses(door, 1, KEY) == [404]


async def test_a_program_with_an_old_key_is_told_so_each_time(door: Door) -> None:
    assert set(await statuses(door, WRONG_KEYS_PER_MINUTE + 10, "old key")) == {401}
    del door.client.headers["X-API-Key"]
    assert set(await statuses(door, WRONG_KEYS_PER_MINUTE + 10)) == {401}


async def test_zero_is_no_limit() -> None:
    rates = Rates(0)

    for _ in range(10_000):
        await rates.count("key")


async def test_what_comes_over_a_minute_is_spread_over_the_next(clock: Clock) -> None:
    rates = Rates(60)
    assert await accepted(rates, 100) == 60

    clock.now = NOON + 60
    assert await accepted(rates, 100) == 0
    clock.now += 9.5
    assert await accepted(rates, 100) == 10
    clock.now += 110
    assert await accepted(rates, 100) == 60


async def test_when_to_come_again_is_when_one_more_is_taken(clock: Clock) -> None:
    rates = Rates(60)
    await accepted(rates, 60)

    for _ in range(200):
        with pytest.raises(TooMany) as refusal:
            await rates.count("key")
        clock.now += refusal.value.retry_after
        if await accepted(rates, 1):
            break

    assert clock.now - NOON <= 62


async def test_what_was_counted_is_forgotten(clock: Clock) -> None:
    rates = Rates(100)
    for number in range(1000):
        await rates.count(f"key {number}")
    clock.now += 300
    for number in range(1000):
        await rates.count(f"other key {number}")
        await asyncio.sleep(0)

    assert rates._requests is not None
    stores = [limiter.storage for limiter in rates._requests._stores]
    names = [name for store in stores if isinstance(store, MemoryStorage) for name in store.storage]
    assert 1000 <= len(names) < 1100


async def accepted(rates: Rates, count: int) -> int:
    """How many of so many requests with one key were taken."""
    taken = 0
    for _ in range(count):
        with contextlib.suppress(TooMany):
            await rates.count("key")
            taken += 1
    return taken


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::ffff", "2001:db8:1:2::"),
        ("::1", "::"),
        ("fe80::1%eth0", "fe80::"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("", ""),
        ("unknown", "unknown"),
        ("not:an:address", "not:an:address"),
    ],
)
def test_one_client_has_an_address_or_an_ipv6_network(address: str, client: str) -> None:
    assert client_at(address) == client
