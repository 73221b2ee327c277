"""Tasks go to workers and come back as endings, with a real queue, a real shelf and real (scripted) workers."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pytest

from fluxserve.dispatch import Dispatcher, Upkeep, placement
from fluxserve.domain.credits import work
from fluxserve.domain.errors import Unavailable
from fluxserve.domain.generation import Generation, ImageToImage, TextToImage
from fluxserve.domain.job import Job
from fluxserve.domain.task import PUBLIC, Ending, State, Submission, Task
from fluxserve.executors import LocalExecutor, Slot, local
from fluxserve.storage import Shelf
from fluxserve.tasks import Accounts, Completions, Database, Held, Queue, Rules, migrate, open_sqlite
from tests.executors.conftest import command

pytestmark = pytest.mark.anyio

LONG = 30.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class House:
    queue: Queue
    shelf: Shelf
    executor: LocalExecutor
    dispatcher: Dispatcher
    account_id: str
    completions: Completions

    async def submit(self, script: str, *, count: int = 1, is_private: bool = False) -> Task:
        generation = Generation("flux1-schnell", TextToImage(script), 64, 64, 1, None, 5, count)
        return await self.queue.submit(Submission(self.account_id, {}, generation, is_private=is_private))

    async def submit_over(self, image: str) -> Task:
        """A task drawn over the picture of that key."""
        generation = Generation("flux1-schnell", ImageToImage("a cat", image, 0.5), 64, 64, 1, None, 5)
        return await self.queue.submit(Submission(self.account_id, {}, generation))

    async def get(self, task: Task) -> Task:
        return await self.queue.get(self.account_id, task.id)

    async def reaches(self, task: Task, *states: State) -> Task:
        async with asyncio.timeout(LONG):
            while (now := await self.get(task)).state not in states:
                await asyncio.sleep(0.02)
        return now

    async def finished(self, task: Task) -> Task:
        return await self.reaches(task, State.COMPLETED, State.FAILED)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    engine = open_sqlite(tmp_path / "queue.sqlite")
    migrate(engine)
    database = Database(engine)
    account = await Accounts(database).ensure_first(credits_usd=10, max_concurrent=100)
    queue = Queue(database, Rules())
    shelf = Shelf(tmp_path / "pictures")
    executor = LocalExecutor([command()], silence_seconds=2.0, stall_seconds=10.0)
    dispatcher = Dispatcher(
        queue=queue, executor=executor, shelf=shelf, keep_seconds=60, renew_every=0.1, progress_every=0.02
    )
    executor.start()
    dispatcher.start()
    yield House(queue, shelf, executor, dispatcher, account.id, Completions(database))
    await dispatcher.stop(0, asyncio.Event())
    await executor.stop()
    assert await queue.audit() == []
    database.close()


async def test_a_task_is_drawn_and_its_pictures_are_on_the_shelf(house: House) -> None:
    task = await house.finished(await house.submit("a cat", count=3))

    assert task.state is State.COMPLETED
    assert [output.seed for output in task.outputs] == [5, 6, 7]
    for output in task.outputs:
        assert house.shelf.path(output.key).read_bytes() == b"a cat"
        assert output.size == len(b"a cat")
        assert output.content_type == "image/png"


async def test_a_worker_with_room_for_one_model_stays_with_each_for_a_while(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two accounts that want different ones: it neither loads for every picture nor leaves one of them waiting."""
    handed_over: list[str] = []
    assign = house.executor.assign

    def note(slot: Slot, job: Job) -> None:
        handed_over.append(job.generation.model)
        assign(slot, job)

    monkeypatch.setattr(house.executor, "assign", note)
    generations = [
        Generation(model, TextToImage(f"load-{member}"), 64, 64, 1, None, 5)
        for model, member in (("flux1-schnell", "schnell"), ("flux1-dev", "dev"))
    ]
    monkeypatch.setattr(placement, "MOST_LEAD", 8 * work(generations[0]))
    monkeypatch.setattr(local, "MOST_PLACES", 2)  # or most of it were placed at once
    other = await Accounts(house.queue._database).create("other", credits_usd=10, max_concurrent=100)
    blocking = [await house.submit("wait") for _ in range(2)]
    tasks = [
        await house.queue.submit(Submission(account_id, {}, generation))
        for _ in range(32)
        for account_id, generation in zip((house.account_id, other.id), generations, strict=True)
    ]
    for task in (*blocking, tasks[-2]):
        await house.finished(task)

    stays = [len(list(stay)) for _, stay in groupby(handed_over)]
    assert max(stays) < 16
    assert len(stays) < len(handed_over) / 4


async def test_a_worker_is_given_the_callers_picture(house: House) -> None:
    house.shelf.put("theirs.png", b"a photo")
    task = await house.finished(await house.submit_over("theirs.png"))

    assert house.shelf.path(task.outputs[0].key).read_bytes() == b"a photo"


async def test_a_task_whose_picture_is_gone_fails_and_says_so(house: House) -> None:
    task = await house.finished(await house.submit_over("gone.png"))

    assert (task.state, task.error_code) == (State.FAILED, "drawing_failed")
    assert "could not be read" in str(task.error_message)
    assert (await house.finished(await house.submit("a cat"))).state is State.COMPLETED


async def test_a_task_whose_picture_is_gone_fails_though_the_database_was_away_just_then(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish, failures = house.queue.finish, iter([Unavailable("away"), Unavailable("still away")])

    async def away_twice(held: Held, ending: Ending) -> Task | None:
        for failure in failures:
            raise failure
        return await finish(held, ending)

    monkeypatch.setattr(house.queue, "finish", away_twice)

    task = await house.finished(await house.submit_over("gone.png"))

    assert (task.state, task.error_code) == (State.FAILED, "drawing_failed")


async def test_many_tasks_are_drawn_each_once(house: House) -> None:
    tasks = [await house.submit(f"cat {number}") for number in range(40)]

    finished = [await house.finished(task) for task in tasks]

    assert {task.state for task in finished} == {State.COMPLETED}
    assert {task.attempt for task in finished} == {1}


@pytest.mark.parametrize(("script", "code"), [("fail", "drawing_failed"), ("flag", "flagged")])
async def test_a_failed_job_is_a_failed_task_that_says_why(house: House, script: str, code: str) -> None:
    task = await house.finished(await house.submit(script))

    assert (task.state, task.error_code, task.error_message) == (State.FAILED, code, "as the script says")


async def test_a_task_that_kills_its_workers_fails_at_the_third_and_takes_no_other_with_it(house: House) -> None:
    poison, innocent = await house.submit("wait die"), await house.submit("a cat")

    after = await house.finished(poison)
    assert (after.state, after.error_code, after.losses) == (State.FAILED, "abandoned", 3)
    after = await house.finished(innocent)
    assert (after.state, after.losses) == (State.COMPLETED, 0)


async def test_a_hung_worker_is_replaced_and_its_task_drawn_by_the_next(house: House) -> None:
    hung = await house.submit("silent")
    other = await house.submit("a cat")

    assert (await house.finished(other)).state is State.COMPLETED
    assert (await house.finished(hung)).losses == 3


async def test_steps_are_noted_and_the_lease_is_renewed_while_a_task_is_drawn(house: House) -> None:
    task = await house.reaches(await house.submit("wait wait wait"), State.PROCESSING)
    async with asyncio.timeout(LONG):
        while (await house.get(task)).step is None:
            await asyncio.sleep(0.02)


async def test_a_running_task_is_stopped_by_its_callers_wish(house: House) -> None:
    task = await house.reaches(await house.submit("wait " * 50), State.PROCESSING)

    await house.queue.cancel(house.account_id, task.id)

    after = await house.finished(task)
    assert (after.state, after.error_code) == (State.FAILED, "cancelled")


async def test_a_task_that_is_taken_away_from_a_worker_is_stopped_there(house: House) -> None:
    task = await house.reaches(await house.submit("wait " * 50), State.PROCESSING)
    other = await house.submit("a cat")

    await house.queue.rescue(everything=True)
    await house.queue.cancel(task.account_id, task.id)  # it would be drawn again, before the other

    assert (await house.finished(other)).state is State.COMPLETED
    assert (await house.get(task)).state is State.FAILED


async def test_a_picture_that_cant_be_stored_is_tried_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    put, failures = house.shelf.put, iter([OSError(28, "No space left on device")])

    def full_once(key: str, data: bytes) -> None:
        for failure in failures:
            raise failure
        put(key, data)

    monkeypatch.setattr(house.shelf, "put", full_once)

    assert (await house.finished(await house.submit("a cat"))).state is State.COMPLETED


async def test_a_stop_gives_back_what_has_not_begun_and_waits_for_what_has(house: House) -> None:
    running = await house.submit("wait wait a cat")
    waiting = [await house.submit("a cat") for _ in range(3)]
    async with asyncio.timeout(LONG):
        while (await house.get(running)).step is None:
            await asyncio.sleep(0.02)

    await house.dispatcher.stop(LONG, asyncio.Event())

    assert (await house.get(running)).state is State.COMPLETED
    assert {(await house.get(task)).state for task in waiting} == {State.PENDING}


async def test_a_hurried_stop_gives_everything_back(house: House) -> None:
    running = await house.submit("hang")
    async with asyncio.timeout(LONG):
        while (await house.get(running)).step is None:
            await asyncio.sleep(0.02)
    hurry = asyncio.Event()
    hurry.set()

    async with asyncio.timeout(5):
        await house.dispatcher.stop(3600, hurry)

    after = await house.get(running)
    assert (after.state, after.losses) == (State.PENDING, 0)


async def test_a_private_task_is_drawn_by_a_worker_of_its_accounts_pool_and_by_no_other(house: House) -> None:
    private = await house.submit("a private cat", is_private=True)
    public = await house.submit("a cat")
    assert (await house.finished(public)).state is State.COMPLETED  # it came later; the public worker passed it over
    assert (await house.get(private)).state is State.PENDING

    own = LocalExecutor([command("own", pool=house.account_id)], silence_seconds=2.0, stall_seconds=10.0)
    dispatcher = Dispatcher(queue=house.queue, executor=own, shelf=house.shelf, keep_seconds=60, renew_every=0.1)
    own.start()
    dispatcher.start()
    try:
        async with asyncio.timeout(LONG):
            while not own.can_draw:
                await asyncio.sleep(0.02)
        more = await house.submit("a cat")
        done = await house.finished(private)
        assert (done.state, done.price) == (State.COMPLETED, 0)
        assert (await house.finished(more)).pool == PUBLIC
    finally:
        await dispatcher.stop(0, asyncio.Event())
        await own.stop()


async def test_upkeep_sweeps_expired_pictures_and_keeps_their_tasks(house: House) -> None:
    task = await house.finished(await house.submit("a cat"))
    (output,) = task.outputs
    queue = house.queue
    queue._clock = lambda _connection: output.expires_at + 1
    upkeep = Upkeep(queue=queue, completions=house.completions, shelf=house.shelf, every=3600)

    await upkeep.one_pass()

    assert not house.shelf.path(output.key).exists()
    assert await queue.expired_outputs(10) == []
    assert await house.get(task) == task


async def test_upkeep_clears_up_what_a_crash_left_and_keeps_every_tasks_pictures(house: House) -> None:
    task = await house.finished(await house.submit("a cat"))
    (output,) = task.outputs
    house.shelf.put("left-behind-1-0.png", b"stored, never committed")

    await Upkeep(queue=house.queue, completions=house.completions, shelf=house.shelf, every=3600).clear_up(
        untouched_seconds=0
    )

    assert house.shelf.path(output.key).exists()
    assert not house.shelf.path("left-behind-1-0.png").exists()


async def test_upkeep_sweeps_callers_pictures_once_their_tasks_have_ended(house: House) -> None:
    for key in ("first.png", "second.png"):
        house.shelf.put(key, b"a photo")
    await house.finished(await house.submit_over("first.png"))
    upkeep = Upkeep(queue=house.queue, completions=house.completions, shelf=house.shelf, every=3600)
    await house.dispatcher.stop(0, asyncio.Event())
    await house.submit_over("second.png")

    await upkeep.one_pass()
    await upkeep.clear_up(untouched_seconds=0)

    assert not house.shelf.path("first.png").exists()
    assert house.shelf.path("second.png").exists()
    assert await house.queue.spent_inputs(10) == []
