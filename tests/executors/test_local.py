"""Workers are started, spoken to, watched and replaced."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from fluxserve.domain.job import Cancelled, Done, Failed, Lost, Progress, Started
from fluxserve.executors import LocalExecutor, Report, Slot, WorkerCommand
from fluxserve.executors.local import LOOKED_BACK, MOST_PLACES, PLACES
from tests.executors.conftest import command, job

pytestmark = pytest.mark.anyio

SCHNELL = frozenset({"schnell"})
LONG = 20.0  # seconds: more than anything here takes


@asynccontextmanager
async def running(*commands: WorkerCommand, silence: float = LONG, stall: float = LONG) -> AsyncIterator[LocalExecutor]:
    executor = LocalExecutor(commands, silence_seconds=silence, stall_seconds=stall)
    executor.start()
    try:
        yield executor
    finally:
        await executor.stop()


async def until(executor: LocalExecutor, condition: Callable[[], object]) -> None:
    async with asyncio.timeout(LONG):
        while not condition():
            executor.slots_changed.clear()
            await executor.slots_changed.wait()


async def next_report(executor: LocalExecutor) -> Report:
    async with asyncio.timeout(LONG):
        return await executor.reports.get()


async def ending(executor: LocalExecutor) -> Report:
    while isinstance(report := await next_report(executor), Started | Progress):
        pass
    return report


async def test_a_ready_worker_has_two_places() -> None:
    async with running(command("one")) as executor:
        assert not executor.can_draw
        await until(executor, lambda: executor.can_draw)
        assert executor.free_slots() == [Slot("one", 0, members=SCHNELL), Slot("one", 1, members=SCHNELL)]


async def test_a_worker_whose_jobs_take_no_time_has_more_places_until_one_does() -> None:
    async with running(command("one")) as executor:
        await until(executor, lambda: executor.can_draw)
        for number in range(LOOKED_BACK):
            assert len(executor.free_slots()) == PLACES
            executor.assign(Slot("one", 0), job(str(number), "a cat"))
            assert isinstance(await ending(executor), Done)
        assert PLACES < len(executor.free_slots()) <= MOST_PLACES

        executor.assign(Slot("one", 0), job("long", "wait"))
        assert isinstance(await ending(executor), Done)
        assert len(executor.free_slots()) == PLACES


async def test_a_job_is_reported_from_its_start_to_its_pictures() -> None:
    async with running(command()) as executor:
        await until(executor, lambda: executor.can_draw)
        executor.assign(executor.free_slots()[0], job("a", "a cat"))
        assert executor.free_slots() == [Slot("one", 1, members=SCHNELL)]

        assert await next_report(executor) == Started("a")
        assert await next_report(executor) == Progress("a", 1, 1)
        done = await next_report(executor)
        assert isinstance(done, Done)
        assert done.pictures[0].data == b"a cat"
        assert len(executor.free_slots()) == 2


async def test_a_slot_tells_which_members_its_worker_has_loaded_by_then() -> None:
    def members() -> set[frozenset[str]]:
        return {slot.members for slot in executor.free_slots()}

    async with running(command()) as executor:
        await until(executor, lambda: executor.can_draw)
        assert members() == {SCHNELL}

        dev = job("a", "load-fill")
        executor.assign(Slot("one", 0), replace(dev, generation=replace(dev.generation, model="flux1-dev")))
        assert members() == {frozenset({"dev"})}  # to be loaded for it: whether schnell can stay, nobody knows yet

        assert isinstance(await ending(executor), Done)
        assert members() == {frozenset({"fill"})}


async def test_a_failed_job_leaves_the_worker_as_it_was() -> None:
    async with running(command()) as executor:
        await until(executor, lambda: executor.can_draw)
        executor.assign(Slot("one", 0), job("a", "fail"))
        executor.assign(Slot("one", 1), job("b"))

        assert isinstance(await ending(executor), Failed)
        assert isinstance(await ending(executor), Done)


async def test_a_cancelled_job_says_so() -> None:
    async with running(command()) as executor:
        await until(executor, lambda: executor.can_draw)
        executor.assign(Slot("one", 0), job("a", "wait wait wait wait wait"))
        assert await next_report(executor) == Started("a")

        executor.cancel("a")
        executor.cancel("unknown")

        assert await ending(executor) == Cancelled("a")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("die", "killed by SIGKILL"),
        ("exit-70", "out of memory"),
        ("garbage", "can't be read"),
        ("huge", "a frame of 4294967295 bytes"),
    ],
)
async def test_a_worker_that_ends_is_an_ordinary_loss_and_is_replaced(script: str, reason: str) -> None:
    async with running(command()) as executor:
        await until(executor, lambda: executor.can_draw)
        executor.assign(Slot("one", 0), job("a", script))
        executor.assign(Slot("one", 1), job("b"))

        first, second = await ending(executor), await ending(executor)
        assert isinstance(first, Lost)
        assert reason in first.reason
        assert (first.job_id, first.started) == ("a", True)
        assert isinstance(second, Lost)
        assert (second.job_id, second.started) == ("b", False)

        await until(executor, lambda: executor.can_draw)
        executor.assign(Slot("one", 0), job("c"))
        assert isinstance(await ending(executor), Done)


async def test_a_worker_that_says_nothing_is_replaced() -> None:
    async with running(command(), silence=1.0) as executor:
        await until(executor, lambda: executor.can_draw)
        executor.assign(Slot("one", 0), job("a", "silent"))

        lost = await ending(executor)
        assert isinstance(lost, Lost)
        assert "said nothing" in lost.reason
        await until(executor, lambda: executor.can_draw)


async def test_a_worker_whose_job_stands_still_is_replaced() -> None:
    async with running(command(), stall=2.0) as executor:
        await until(executor, lambda: executor.can_draw)
        executor.assign(Slot("one", 0), job("a", "hang"))

        lost = await ending(executor)
        assert isinstance(lost, Lost)
        assert "made no step" in lost.reason


async def test_a_worker_that_never_gets_ready_is_started_again_and_says_what_is_wrong() -> None:
    async with running(command("one", "never-ready")) as executor:
        async with asyncio.timeout(LONG):
            while "status 3" not in executor.doing["one"]:
                await asyncio.sleep(0.05)
        assert not executor.can_draw


async def test_a_worker_that_loads_for_too_long_is_started_again() -> None:
    async with running(command("one", "loads-forever"), stall=1.0) as executor, asyncio.timeout(LONG):
        while "not ready after" not in executor.doing["one"]:
            await asyncio.sleep(0.05)


async def test_a_worker_that_cant_be_started_says_so() -> None:
    async with running(WorkerCommand("one", ("/no/such/program",))) as executor, asyncio.timeout(LONG):
        while "could not be started" not in executor.doing["one"]:
            await asyncio.sleep(0.05)


async def test_each_of_several_workers_draws() -> None:
    async with running(command("one"), command("two")) as executor:
        await until(executor, lambda: len(executor.free_slots()) == 4)
        executor.assign(Slot("one", 0), job("a", "wait"))
        executor.assign(Slot("two", 0), job("b", "wait"))

        assert {(await ending(executor)).job_id for _ in range(2)} == {"a", "b"}
