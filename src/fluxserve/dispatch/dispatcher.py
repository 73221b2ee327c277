"""Moves tasks from the queue to the workers and their endings back.

Three loops, each woken by a signal: `_hand_out` by a new task or a free slot, `_take_report` by a worker's word,
`_heed_cancellations` by a caller's wish. Two of them look from time to time without one, for what another process has
changed. `_write_progress` and `_keep_leases` run by the clock: while we live, what we hold stays ours.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

from fluxserve.dispatch.placement import place
from fluxserve.domain.errors import CancelledByCaller, DrawingFailed, Unavailable
from fluxserve.domain.generation import images_of
from fluxserve.domain.job import Cancelled, Done, Failed, Job, Lost, Picture, Progress, Started
from fluxserve.domain.task import Completed, Ending, Errored, GivenBack, Output, Task, WorkerLost
from fluxserve.executors import LocalExecutor, Report
from fluxserve.storage import Shelf
from fluxserve.tasks import Held, Queue

log = logging.getLogger(__name__)

CONTENT_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
TRY_AGAIN_SECONDS = 1.0
LAST_SECONDS = 5.0  # of a stop, for endings that can't be written: their tasks' leases run out
LOOK_SECONDS = 2.0  # without a signal


class Dispatcher:
    """One server's hand on the queue."""

    def __init__(
        self,
        *,
        queue: Queue,
        executor: LocalExecutor,
        shelf: Shelf,
        keep_seconds: float,
        renew_every: float,
        progress_every: float = 0.5,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._queue = queue
        self._executor = executor
        self._shelf = shelf
        self._keep_seconds = keep_seconds
        self._renew_every = renew_every
        self._progress_every = progress_every
        self._clock = clock
        self._held: dict[str, _Attempt] = {}  # by job id: what our workers have
        self._none_held = asyncio.Event()
        self._is_awaited = asyncio.Event()  # a preview, by a caller whom it was promised
        self._endings: set[asyncio.Task[None]] = set()
        self._loops: list[asyncio.Task[None]] = []
        self._is_stopping = False
        self._handing_out = asyncio.Lock()

    def start(self) -> None:
        self._loops = [
            asyncio.create_task(self._forever(one_pass))
            for one_pass in (
                self._hand_out,
                self._take_report,
                self._heed_cancellations,
                self._keep_leases,
                self._write_progress,
            )
        ]

    async def stop(self, within_seconds: float, hurry: asyncio.Event) -> None:
        """Claim no more, give back what has not begun, wait for the rest unless in a `hurry`, then give it back too."""
        async with self._handing_out:  # what a claim under way takes shall be given back too
            self._is_stopping = True
        for job_id, attempt in list(self._held.items()):
            if attempt.step is None:
                await self._give_back(job_id)
        if self._held:
            await _first_of(self._none_held, hurry, within_seconds=within_seconds)
        for job_id in list(self._held):
            log.warning("%s is given back: it was not drawn in time for the stop", job_id)
            await self._give_back(job_id)
        if self._endings:
            await asyncio.wait(self._endings, timeout=LAST_SECONDS)
        for each in (*self._loops, *self._endings):
            each.cancel()
        await asyncio.gather(*self._loops, *self._endings, return_exceptions=True)

    async def _give_back(self, job_id: str) -> None:
        try:
            await self._end(job_id, GivenBack())
        except Unavailable:
            log.warning("%s could not be given back, for the database is gone: its lease must run out", job_id)

    async def _forever(self, one_pass: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """A pass that breaks is logged, and the next one comes."""
        while True:
            try:
                await one_pass()
            except Unavailable:
                log.warning(
                    "a pass of the dispatcher could not be made (%s), for the database is gone", one_pass.__name__
                )
                await asyncio.sleep(TRY_AGAIN_SECONDS)
            except Exception:
                log.exception("a pass of the dispatcher broke (%s); going on", one_pass.__name__)
                await asyncio.sleep(TRY_AGAIN_SECONDS)

    # ------------------------------------------------------------ tasks to workers

    async def _hand_out(self) -> None:
        wake = self._queue.signals.wake
        await _first_of(wake, self._executor.slots_changed, within_seconds=LOOK_SECONDS)
        wake.clear()
        self._executor.slots_changed.clear()
        async with self._handing_out:
            slots = [] if self._is_stopping else self._executor.free_slots()
            if not slots:
                return
            placed = place(await self._queue.waiting(len(slots)), slots)
            if not placed:
                return
            slot_of = {each.task.task_id: each.slot for each in placed}
            claimed = await self._queue.claim(slot_of, {each.task.task_id for each in placed if each.is_early})
            if len(claimed) < len(placed):
                wake.set()  # another server was faster: there may be others for our slots
            for task in claimed:
                job_id = _job_id(task.id, task.attempt)
                self._held[job_id] = _Attempt(task)
                self._none_held.clear()
                try:
                    images = await asyncio.to_thread(self._images, task) if images_of(task.generation) else {}
                except OSError:
                    log.exception("a picture that %s is drawn from can't be read", job_id)
                    message = "a picture that it was to be drawn from could not be read"
                    self._record_soon(Failed(job_id, DrawingFailed.code, message))
                    continue
                self._executor.assign(slot_of[task.id], Job(job_id, task.generation, images))

    def _images(self, task: Task) -> dict[str, bytes]:
        return {key: self._shelf.path(key).read_bytes() for key in images_of(task.generation)}

    async def _heed_cancellations(self) -> None:
        wished = self._queue.signals.cancel_wished
        await _first_of(wished, within_seconds=LOOK_SECONDS)
        wished.clear()
        if not self._held:
            return
        for held in await self._queue.wished_cancelled():
            self._executor.cancel(_job_id(held.task_id, held.attempt))

    # ------------------------------------------------------------ reports to endings

    async def _take_report(self) -> None:
        report = await self._executor.reports.get()
        match report:
            case Started(job_id):
                self._note_progress(Progress(job_id, 0, 0))
            case Progress():
                self._note_progress(report)
            case Done() | Failed() | Cancelled() | Lost():
                self._record_soon(report)

    def _note_progress(self, report: Progress) -> None:
        if attempt := self._held.get(report.job_id):
            preview = report.preview or (attempt.unwritten.preview if attempt.unwritten else b"")
            attempt.step, attempt.unwritten = report.step, replace(report, preview=preview)
            if report.preview and attempt.task.generation.previews:
                self._is_awaited.set()

    def _record_soon(self, report: Report) -> None:
        """Storing and committing take their time, and may have to be tried again: what is next need not wait for it."""
        ending = asyncio.create_task(self._record(report))
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)

    async def _record(self, report: Report) -> None:
        """Turn how a job ended into how its attempt ended, and write that down until it is written."""
        while attempt := self._held.get(report.job_id):
            try:
                await self._end(report.job_id, await self._ending(attempt.task, report))
            except (Unavailable, OSError):
                log.exception("the ending of %s could not be written; trying again", report.job_id)
                await asyncio.sleep(TRY_AGAIN_SECONDS)

    async def _ending(self, task: Task, report: Report) -> Ending:
        match report:
            case Done(_, pictures):
                return Completed(await asyncio.to_thread(self._store, task, pictures))
            case Failed(_, code, message):
                return Errored(code, message)
            case Cancelled():
                return Errored(CancelledByCaller.code, "cancelled by the caller")
            case Lost(_, reason, True):
                return WorkerLost(reason)
            case _:
                return GivenBack()

    def _store(self, task: Task, pictures: tuple[Picture, ...]) -> tuple[Output, ...]:
        """Every picture on the shelf, durably, before the task may say that it is completed."""
        outputs = []
        for position, picture in enumerate(pictures):
            key = f"{task.id}-{task.attempt}-{position}.{task.generation.format}"
            self._shelf.put(key, picture.data)
            outputs.append(
                Output(
                    id=secrets.token_hex(16),
                    key=key,
                    content_type=CONTENT_TYPES[task.generation.format],
                    size=len(picture.data),
                    width=picture.width,
                    height=picture.height,
                    seed=picture.seed,
                    expires_at=self._clock() + self._keep_seconds,
                )
            )
        return tuple(outputs)

    async def _end(self, job_id: str, ending: Ending) -> None:
        """Write an attempt's ending, then let go of it. An attempt that was fenced off meanwhile changes nothing."""
        attempt = self._held.get(job_id)
        if attempt is None:
            return
        after = await self._queue.finish(attempt.held, ending)
        self._held.pop(job_id, None)
        if not self._held:
            self._none_held.set()
        if after is None:
            log.warning("%s came too late and changed nothing", job_id)
        else:
            log.info("%s: the task is %s", job_id, after.state)

    # ------------------------------------------------------------ by the clock

    async def _write_progress(self) -> None:
        await _first_of(self._is_awaited, within_seconds=self._progress_every)
        self._is_awaited.clear()
        for attempt in list(self._held.values()):
            if report := attempt.unwritten:
                attempt.unwritten = None
                await self._queue.progress(attempt.held, report.step, report.steps, report.preview)

    async def _keep_leases(self) -> None:
        if held := {attempt.held for attempt in self._held.values()}:
            for lost in held - await self._queue.renew(held):
                # Another server has taken it, or its lease had run out: our worker need not go on.
                self._executor.cancel(_job_id(lost.task_id, lost.attempt))
        await asyncio.sleep(self._renew_every)  # last: leases that the database could not renew are soon tried again


@dataclass
class _Attempt:
    """A task as one of our workers has it: `step` is the last it told of, None until it has begun, and `unwritten` what
    it told that the queue does not know yet."""

    task: Task
    step: int | None = None
    unwritten: Progress | None = None

    @property
    def held(self) -> Held:
        return Held(self.task.id, self.task.attempt)


def _job_id(task_id: str, attempt: int) -> str:
    return f"{task_id} attempt {attempt}"


async def _first_of(*events: asyncio.Event, within_seconds: float | None = None) -> None:
    """Until one of them is set, or the time is up."""
    if any(event.is_set() for event in events):
        return
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED, timeout=within_seconds)
    finally:
        for wait in waits:
            wait.cancel()
