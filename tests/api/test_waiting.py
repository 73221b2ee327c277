"""A caller may hold the line until a task has ended; one who hangs up holds it no longer."""

import asyncio
from typing import Any

import pytest

from fluxserve.api.waiting import HungUp, unless_hung_up, until_ended
from fluxserve.domain.errors import NotYet
from fluxserve.domain.task import Completed, State
from tests.api.conftest import Door, picture

pytestmark = pytest.mark.anyio


async def test_the_task_is_told_as_soon_as_it_has_ended(each_door: Door) -> None:
    door = each_door
    task = await door.queue.get(door.account_id, await door.create())
    waiting = asyncio.create_task(until_ended(door.queue, task, 30))
    await asyncio.sleep(0.05)
    assert not waiting.done()

    await door.end(task.id, Completed((picture("a"),)))

    ended = await asyncio.wait_for(waiting, 1)
    assert (ended.state, len(ended.outputs)) == (State.COMPLETED, 1)
    assert await until_ended(door.queue, ended, 0.01) == ended


async def test_who_has_waited_long_enough_is_told_where_to_look(door: Door) -> None:
    task = await door.queue.get(door.account_id, await door.create())

    with pytest.raises(NotYet, match=f"after 0.05 s; it goes on, and its id is {task.id}"):
        await until_ended(door.queue, task, 0.05)

    assert (await door.data(task.id))["status"] == "pending"


async def test_work_for_a_caller_who_hangs_up_is_stopped() -> None:
    hung_up, stopped = asyncio.Event(), asyncio.Event()

    async def receive() -> dict[str, Any]:
        await hung_up.wait()
        return {"type": "http.disconnect"}

    async def work(seconds: float) -> str:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            stopped.set()
            raise
        return "done"

    assert await unless_hung_up(receive, work(0)) == "done"
    working = asyncio.create_task(unless_hung_up(receive, work(3600)))
    await asyncio.sleep(0)
    hung_up.set()
    with pytest.raises(HungUp):
        await working
    assert stopped.is_set()
