"""A task's terms: whose workers draw it, until when, and for how much."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from fluxserve import config
from fluxserve.tasks import Rules
from tests.api.conftest import Door, cat, open_door

pytestmark = pytest.mark.anyio

CREATE = "/api/v1/task"
PRIVATE = {"config": {"service_mode": "private"}}


async def created(door: Door, body: dict[str, Any], **headers: str) -> dict[str, Any]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = await door.client.post(CREATE, json=body, headers=named)
    assert answer.status_code == 200, answer.text
    data: dict[str, Any] = answer.json()["data"]
    return data


async def test_a_private_task_is_marked_waits_for_its_accounts_workers_and_costs_nothing(door: Door) -> None:
    await door.accounts.credit(door.account_id, -1.0)

    private = await created(door, cat(batch_size=4) | PRIVATE)

    assert private["meta"]["is_using_private_pool"] is True
    assert private["config"]["service_mode"] == "private"
    assert private["meta"]["usage"] == {"type": "point", "frozen": 0, "consume": 0}
    (waiting,) = await door.queue.waiting(5)
    assert (waiting.task_id, waiting.pool) == (private["task_id"], door.account_id)


@pytest.mark.parametrize("mode", ["public", "", None])
async def test_any_other_task_waits_for_everybodys_workers(door: Door, mode: str | None) -> None:
    public = await created(door, cat() | {"config": {"service_mode": mode}})

    assert public["meta"]["is_using_private_pool"] is False
    assert [waiting.pool for waiting in await door.queue.waiting(5)] == ["public"]


async def test_a_task_that_has_not_ended_by_its_deadline_fails_with_a_code_of_its_own_and_costs_nothing(
    each_door: Door,
) -> None:
    door = each_door
    late = await created(door, cat(), X_Deadline_Seconds="60")
    patient = await created(door, cat())

    door.clock.ahead = 55
    assert await door.queue.expire() == []
    door.clock.ahead = 61
    await door.queue.expire()

    data = await door.data(late["task_id"])
    words = "its deadline passed: it had not ended 60 s after it was created"
    assert (data["status"], data["error"]["code"], data["error"]["message"]) == ("failed", 1203, words)
    assert data["meta"]["usage"] == {"type": "point", "frozen": 0, "consume": 0}
    assert (await door.data(patient["task_id"]))["status"] == "pending"
    account = await door.accounts.get(door.account_id)
    assert (account.balance, account.frozen) == (10_000_000 - 20_000, 20_000)


async def test_without_one_the_settings_deadline_holds(sqlite: Engine, tmp_path: Path) -> None:
    async with open_door(sqlite, tmp_path, rules=Rules(deadline_seconds=100)) as door:
        task = await created(door, cat())
        door.clock.ahead = 101
        await door.queue.expire()

        assert (await door.data(task["task_id"]))["error"]["code"] == 1203


@pytest.mark.parametrize("seconds", ["0", "-1", "soon", "nan", "inf", "2592001", ""])
async def test_a_bad_deadline_is_refused_by_name_value_and_what_is_allowed(door: Door, seconds: str) -> None:
    answer = await door.client.post(CREATE, json=cat(), headers={"X-Deadline-Seconds": seconds})

    assert answer.status_code == 400
    assert answer.json()["message"] == (
        f"X-Deadline-Seconds: {seconds!r} is not allowed; allowed is a number of seconds over 0 up to 2592000"
    )
    assert (await door.accounts.get(door.account_id)).frozen == 0


async def test_prices_come_from_the_settings(sqlite: Engine, tmp_path: Path) -> None:
    settings = config.load({"FLUXSERVE_PRICE_SCHNELL": "7", "FLUXSERVE_PRICE_DEV_ADVANCED": "0"})
    async with open_door(sqlite, tmp_path, rules=Rules(prices=settings.price.of_products)) as door:
        frozen = [
            (await created(door, body))["meta"]["usage"]["frozen"]
            for body in (cat(batch_size=3), cat("Qubico/flux1-dev"), cat("Qubico/flux1-dev-advanced"))
        ]

    assert frozen == [21, 150_000, 0]
