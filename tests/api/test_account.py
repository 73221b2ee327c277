"""The account as the vendor shows it: what it has, what it waits for, and what it has asked for before."""

import re
from typing import Any

import pytest

from fluxserve.domain.task import Completed, Errored
from tests.api.conftest import Door, cat, picture

pytestmark = pytest.mark.anyio

MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
HISTORIES = "/api/open/tasks/histories"


async def histories(door: Door, **query: object) -> dict[str, Any]:
    answer = await door.client.get(HISTORIES, params=query)  # type: ignore[arg-type]
    assert answer.status_code == 200, answer.text
    assert answer.json().keys() == {"code", "data", "message"}
    data: dict[str, Any] = answer.json()["data"]
    return data


async def ids(door: Door, **query: object) -> list[str]:
    return [task["task_id"] for task in (await histories(door, **query))["data"]]


async def test_the_account_is_shown_with_what_it_can_still_spend_to_the_last_key(door: Door) -> None:
    await door.create(model="Qubico/flux1-dev-advanced")

    answer = (await door.client.get("/account/info")).json()

    created_at = answer["data"]["created_at"]
    assert MOMENT.fullmatch(created_at)
    assert answer == {
        "code": 200,
        "data": {
            "id": door.account_id,
            "name": "first",
            "account_id": door.account_id,
            "account_name": "first",
            "plan": "",
            "type": "",
            "platform": "fluxserve",
            "is_enable": True,
            "is_verified": True,
            "max_concurrent_task_count": 100,
            "equivalent_in_usd": 0.98,
            "wallet": {"point_remain": 9_800_000, "mj_remain": 0},
            "credit_pack_info": None,
            "notification_hook_url": "",
            "created_at": created_at,
            "updated_at": created_at,
        },
        "message": "success",
    }


async def test_frozen_points_come_back_with_a_failed_task_and_are_gone_with_a_completed_one(door: Door) -> None:
    for ending in (Errored("drawing_failed", "it broke"), Completed((picture("a"),))):
        await door.end(await door.create(), ending)

    wallet = (await door.client.get("/account/info")).json()["data"]["wallet"]

    assert wallet["point_remain"] == 10_000_000 - 20_000


async def test_active_tasks_are_those_that_have_not_ended_oldest_first(door: Door) -> None:
    await door.end(await door.create(), Completed((picture("a"),)))
    first, second = await door.create(), await door.create()
    await door.accounts.limit(door.account_id, 2)
    third = await door.create()
    await door.claimed(second)

    answer = (await door.client.get("/account/active_tasks")).json()

    assert answer == {
        "code": 200,
        "data": {
            "flux": {
                "staged_count": 1,
                "pending_count": 1,
                "processing_count": 1,
                "active_tasks": [await door.data(task_id) for task_id in (first, second, third)],
            }
        },
        "message": "success",
    }
    assert [task["status"] for task in answer["data"]["flux"]["active_tasks"]] == ["pending", "processing", "staged"]


async def test_an_account_without_tasks_has_empty_lists(door: Door) -> None:
    async with door.stranger() as stranger:
        await door.create()
        active = (await stranger.get("/account/active_tasks")).json()["data"]
        history = (await stranger.get(HISTORIES)).json()

    assert active == {"flux": {"staged_count": 0, "pending_count": 0, "processing_count": 0, "active_tasks": []}}
    assert history == {"code": 200, "data": {"data": [], "page": 1, "size": 10, "total": 0}, "message": "success"}


async def test_a_task_of_the_history_has_the_vendors_keys_and_no_other(door: Door) -> None:
    task_id = await door.create(seed=7)
    await door.end(task_id, Completed((picture("a"),)))
    (key,) = await door.accounts.keys(door.account_id)
    shown = await door.data(task_id)

    assert await histories(door) == {
        "data": [
            {
                "id": task_id,
                "task_id": task_id,
                "task_model": "Qubico/flux1-schnell",
                "action": "txt2img",
                "status": "completed",
                "usage": 20_000,
                "usage_type": "point",
                "service_mode": "public",
                "account_id": door.account_id,
                "api_key_id": key.id,
                "detail": {
                    "model": "Qubico/flux1-schnell",
                    "task_type": "txt2img",
                    "task_id": task_id,
                    "output": {"image_base64": "", "image_url": f"http://pictures.test/files/{'a' * 32}.png"},
                },
                "created_at": shown["meta"]["created_at"],
                "updated_at": shown["meta"]["ended_at"],
                "deleted_at": None,
            }
        ],
        "page": 1,
        "size": 10,
        "total": 1,
    }


async def test_the_usage_is_what_a_task_holds_or_has_cost(door: Door) -> None:
    waiting, failed = await door.create(), await door.create()
    await door.end(failed, Errored("drawing_failed", "it broke"))
    body = cat() | {"config": {"service_mode": "private"}}
    private = (await door.client.post("/api/v1/task", json=body)).json()["data"]["task_id"]

    tasks = {task["task_id"]: task for task in (await histories(door))["data"]}

    assert {task_id: tasks[task_id]["usage"] for task_id in tasks} == {waiting: 20_000, failed: 0, private: 0}
    assert tasks[private]["service_mode"] == "private"
    assert tasks[waiting]["updated_at"] == tasks[waiting]["created_at"]
    assert tasks[waiting]["detail"]["output"] is None


async def test_the_history_comes_a_page_at_a_time_newest_first(each_door: Door) -> None:
    door = each_door
    made = [await door.create() for _ in range(5)]
    newest_first = made[::-1]

    assert await ids(door) == newest_first
    pages = [await histories(door, page=page, page_size=2) for page in (1, 2, 3, 4)]

    assert [[task["task_id"] for task in page["data"]] for page in pages] == [
        newest_first[:2], newest_first[2:4], newest_first[4:], [],
    ]  # fmt: skip
    assert [(page["page"], page["size"], page["total"]) for page in pages] == [(n, 2, 5) for n in (1, 2, 3, 4)]


async def test_the_history_is_sought_by_model_and_by_when_tasks_were_created(each_door: Door) -> None:
    door = each_door
    made = {}
    for hour, model in enumerate(("schnell", "dev", "schnell")):
        door.clock.ahead = hour * 3600
        made[hour] = await door.create(model=f"Qubico/flux1-{model}")
    second = (await door.queue.get(door.account_id, made[1])).created_at

    assert await ids(door, model="Qubico/flux1-schnell") == [made[2], made[0]]
    assert await ids(door, model="flux1-dev") == [made[1]]
    assert await ids(door, model="flux9") == []
    assert await ids(door, start_time=repr(second)) == [made[2], made[1]]
    assert await ids(door, end_time=repr(second)) == [made[0]]
    assert await ids(door, start_time=int(second) - 1, end_time=int(second) + 1) == [made[1]]
    assert await ids(door, model="Qubico/flux1-schnell", start_time=int(second)) == [made[2]]
    assert (await histories(door, model="Qubico/flux1-schnell", page_size=1))["total"] == 2


async def test_what_is_empty_or_not_known_in_a_query_is_passed_over(door: Door) -> None:
    task_id = await door.create()

    assert await ids(door, page="", page_size="", model="", start_time="", end_time="", sort="up") == [task_id]


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("page", "0", "the number of a page, from 1"),
        ("page", "-1", "from 1"),
        ("page", "two", "from 1"),
        ("page", "9" * 30, "from 1"),
        ("page_size", "0", "from 1 to 100"),
        ("page_size", "101", "from 1 to 100"),
        ("page_size", "1.5", "from 1 to 100"),
        ("start_time", "yesterday", "a time in unix seconds"),
        ("start_time", "nan", "a time in unix seconds"),
        ("end_time", "-1", "a time in unix seconds"),
        ("end_time", "2024-09-25T07:40:08Z", "a time in unix seconds"),
        ("model", "flux\0", "the name of a model"),
        ("model", "f" * 101, "the name of a model"),
    ],
)
async def test_a_bad_query_is_refused_by_name_value_and_what_is_allowed(
    door: Door, name: str, value: str, allowed: str
) -> None:
    answer = await door.client.get(HISTORIES, params={name: value})

    assert answer.status_code == 400
    assert answer.json().keys() == {"code", "data", "message"}
    message = answer.json()["message"]
    assert message.startswith(f"{name}: {ascii(value)[:70]}")
    assert allowed in message


@pytest.mark.parametrize("path", ["/account/info", "/account/active_tasks", HISTORIES])
async def test_nothing_is_shown_without_a_key(door: Door, path: str) -> None:
    async with door.client_with(None) as nobody:
        answer = await nobody.get(path)

    assert (answer.status_code, answer.json()["code"], answer.json()["data"]) == (401, 401, None)
