"""Tasks are cancelled one by one, or many at once."""

import pytest

from fluxserve.domain.task import Completed
from tests.api.conftest import Door, picture

pytestmark = pytest.mark.anyio

TASKS = "/api/v1/tasks"


async def cancelled(door: Door, *task_ids: str) -> list[bool]:
    return [(await door.data(task_id))["error"]["code"] == 1300 for task_id in task_ids]


async def test_all_that_wait_are_cancelled_and_their_price_comes_back(each_door: Door) -> None:
    door = each_door
    await door.accounts.limit(door.account_id, 2)
    tasks = [await door.create() for _ in range(3)]  # the last one is staged

    answer = await door.client.delete(TASKS)

    assert answer.json() == {"code": 200, "message": "3 tasks canceled"}
    assert await cancelled(door, *tasks) == [True, True, True]
    account = await door.accounts.get(door.account_id)
    assert (account.balance, account.frozen) == (10_000_000, 0)
    assert (await door.client.delete(TASKS)).json() == {"code": 200, "message": "0 tasks canceled"}


async def test_one_that_is_drawn_is_to_be_stopped_and_one_that_has_ended_stays_as_it_is(door: Door) -> None:
    done, running = await door.create(), await door.create()
    await door.end(done, Completed((picture("a"),)))
    held = await door.claimed(running)

    assert (await door.client.delete(TASKS)).json()["message"] == "1 task canceled"

    assert (await door.data(done))["status"] == "completed"
    assert (await door.data(running))["status"] == "processing"
    assert await door.queue.wished_cancelled() == [held]
    assert door.queue.signals.cancel_wished.is_set()


async def test_only_those_of_a_model_are_cancelled(each_door: Door) -> None:
    door = each_door
    schnell, dev = await door.create(), await door.create(model="Qubico/flux1-dev")

    assert (await door.client.delete(TASKS, params={"model": "Qubico/flux9"})).json()["message"] == "0 tasks canceled"
    assert (await door.client.delete(TASKS, params={"model": "Qubico/flux1-dev"})).json()["code"] == 200

    assert await cancelled(door, schnell, dev) == [False, True]


async def test_only_those_created_before_a_moment_are_cancelled(each_door: Door) -> None:
    door = each_door
    tasks = []
    for hour in range(3):
        door.clock.ahead = hour * 3600
        tasks.append(await door.create())
    last = (await door.queue.get(door.account_id, tasks[2])).created_at

    answer = await door.client.delete(TASKS, params={"created_before": repr(last), "model": "flux1-schnell"})

    assert answer.json()["message"] == "2 tasks canceled"
    assert await cancelled(door, *tasks) == [True, True, False]


async def test_nobody_elses_tasks_are_cancelled(door: Door) -> None:
    task_id = await door.create()
    async with door.stranger() as stranger:
        assert (await stranger.delete(TASKS)).json()["message"] == "0 tasks canceled"

    assert await cancelled(door, task_id) == [False]


@pytest.mark.parametrize(
    ("name", "value"),
    [("created_before", "noon"), ("created_before", "-1"), ("created_before", "nan"), ("model", "\0")],
)
async def test_a_bad_query_cancels_nothing(door: Door, name: str, value: str) -> None:
    task_id = await door.create()

    answer = await door.client.delete(TASKS, params={name: value})

    assert answer.status_code == 400
    assert answer.json()["message"].startswith(f"{name}: {value!a} is not allowed; allowed is ")
    assert await cancelled(door, task_id) == [False]


async def test_a_task_that_is_cancelled_twice_says_the_same_twice(door: Door) -> None:
    task_id = await door.create()

    answers = [await door.client.delete(f"/api/v1/task/{task_id}") for _ in "ab"]

    assert answers[0].json() == answers[1].json() == {"code": 200, "message": f"task {task_id} canceled"}
