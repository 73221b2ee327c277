"""One child process per device, kept alive.

A worker has two places: while it encodes one picture, the next is already being drawn, so its next job must be there
before the last is finished. Where jobs take less time than to bring the next, it has more. The child is started by name
and spoken to in frames over its stdin and stdout (`fluxserve.domain.job`); what it prints goes to our stderr.
"""

import asyncio
import contextlib
import logging
import math
import os
import signal
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from fluxserve.domain import job as wire
from fluxserve.domain.catalog import member_of
from fluxserve.domain.job import Alive, Cancel, Cancelled, Done, Failed, Holds, Job, Lost, Progress, Ready, Started
from fluxserve.domain.task import PUBLIC
from fluxserve.executors.base import Slot

log = logging.getLogger(__name__)

PLACES = 2
MOST_PLACES = 16
BRING_SECONDS = 0.05  # from the end of a job to the beginning of one that was not there yet: two commits and a read
LOOKED_BACK = 8  # jobs
LONGEST_PAUSE = 30.0  # seconds between starts of a worker that can't start
WATCH_EVERY = 0.5

Report = Started | Progress | Done | Failed | Cancelled | Lost


@dataclass(frozen=True, slots=True)
class WorkerCommand:
    """How to start a worker: its name among us, its command line, and the pool that it draws for."""

    name: str
    arguments: Sequence[str]
    pool: str = PUBLIC


class LocalExecutor:
    """Workers on this machine. `reports` is where everything they say of their jobs arrives, in order."""

    def __init__(self, workers: Sequence[WorkerCommand], *, silence_seconds: float, stall_seconds: float) -> None:
        self.reports: asyncio.Queue[Report] = asyncio.Queue()
        self.slots_changed = asyncio.Event()
        self._workers = {
            command.name: _Worker(command, self.reports, self.slots_changed, silence_seconds, stall_seconds)
            for command in workers
        }
        self._keepers: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._keepers = [asyncio.create_task(worker.keep_alive()) for worker in self._workers.values()]

    def free_slots(self) -> list[Slot]:
        """The free places of the workers that are ready."""
        return [
            Slot(worker.name, ahead, worker.pool, worker.members_then)
            for worker in self._workers.values()
            if worker.is_ready
            for ahead in range(len(worker.jobs), worker.places)
        ]

    def assign(self, slot: Slot, job: Job) -> None:
        """Hand a job over. Whatever happens to its worker, a report of it will come."""
        self._workers[slot.worker].assign(job)

    def cancel(self, job_id: str) -> None:
        """Ask for a job to be stopped between steps, if it is here."""
        for worker in self._workers.values():
            worker.cancel(job_id)

    @property
    def can_draw(self) -> bool:
        return any(worker.is_ready for worker in self._workers.values())

    @property
    def doing(self) -> dict[str, str]:
        """What each worker is doing, in words."""
        return {worker.name: worker.doing for worker in self._workers.values()}

    async def stop(self) -> None:
        """End the workers, whatever they are at. Jobs that they still had are not reported."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)


@dataclass
class _Held:
    """A job at a worker."""

    job: Job
    started: bool = False
    moved_at: float = field(default_factory=time.monotonic)  # its last sign of getting on


class _Worker:
    """One child process and the jobs it has; when it ends, the next is started."""

    def __init__(
        self,
        command: WorkerCommand,
        reports: asyncio.Queue[Report],
        slots_changed: asyncio.Event,
        silence_seconds: float,
        stall_seconds: float,
    ) -> None:
        self.name = command.name
        self.pool = command.pool
        self.jobs: dict[str, _Held] = {}
        self.is_ready = False
        self.doing = "starting"
        self._members: frozenset[str] = frozenset()
        self._arguments = command.arguments
        self._reports = reports
        self._slots_changed = slots_changed
        self._silence_seconds = silence_seconds
        self._stall_seconds = stall_seconds
        self._process: asyncio.subprocess.Process | None = None
        self._heard_at = self._began_at = 0.0
        self._busy_since = 0.0  # with the job that is its first
        self._took: deque[float] = deque(maxlen=LOOKED_BACK)  # seconds of the last jobs

    @property
    def places(self) -> int:
        """How many jobs it may have, as the longest of the last ones tells."""
        if len(self._took) < LOOKED_BACK:
            return PLACES
        return min(MOST_PLACES, max(PLACES, 1 + math.ceil(BRING_SECONDS / max(0.001, *self._took))))

    @property
    def members_then(self) -> frozenset[str]:
        """The members that it surely has loaded once the jobs it has are done."""
        members = self._members
        for held in self.jobs.values():
            member = member_of(held.job.generation)
            if member not in members:  # to be loaded for it, and any other may have to make room
                members = frozenset((member,))
        return members

    async def keep_alive(self) -> None:
        """Start the child again whenever it ends: at once if it had been ready, with growing pauses if it never was."""
        pause = 0.0
        while True:
            reason = await self._live()
            was_ready, self.is_ready = self.is_ready, False
            log.warning("worker %s is lost: %s", self.name, reason)
            self._report_lost(reason)
            pause = 0.0 if was_ready else min(LONGEST_PAUSE, pause * 2 or 1.0)
            self.doing = f"starting again after it was lost: {reason}"
            await asyncio.sleep(pause)

    def assign(self, job: Job) -> None:
        if not self.jobs:
            self._busy_since = time.monotonic()
        self.jobs[job.id] = _Held(job)
        self._send(job)

    def cancel(self, job_id: str) -> None:
        if job_id in self.jobs:
            self._send(Cancel(job_id))

    def _send(self, message: Job | Cancel) -> None:
        # If the child is gone the pipe raises or swallows; either way its end is noticed by `_live`, which reports.
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(ConnectionError, RuntimeError):
                self._process.stdin.write(wire.dump(message))

    async def _live(self) -> str:
        """One child's life. Returns why it ended."""
        try:
            # A session of its own: a ctrl-C at the terminal is for the server, which then stops its workers.
            process = await asyncio.create_subprocess_exec(
                *self._arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            return f"it could not be started: {error}"
        self._process = process
        self._heard_at = self._began_at = time.monotonic()
        listener = asyncio.create_task(self._listen(process))
        watcher = asyncio.create_task(self._watch())
        try:
            done, _ = await asyncio.wait((listener, watcher), return_when=asyncio.FIRST_COMPLETED)
            reason = done.pop().result()
            if reason is None:
                # The pipe is closed: the exit status follows.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), 5)
            return _cause_of_death(process.returncode) if reason is None else reason
        finally:
            for task in (listener, watcher):
                task.cancel()
            _kill(process)
            await asyncio.shield(process.wait())
            self._process = None

    async def _listen(self, process: asyncio.subprocess.Process) -> str | None:
        """Read frames to the end of the pipe; None means that it simply closed."""
        assert process.stdout is not None
        try:
            while True:
                (length,) = wire.LENGTH.unpack(await process.stdout.readexactly(wire.LENGTH.size))
                if length > wire.LARGEST_FRAME:
                    return f"it sent a frame of {length} bytes"
                self._heard(wire.load(await process.stdout.readexactly(length)))
        except asyncio.IncompleteReadError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            return f"it sent a frame that can't be read: {error!r}"

    def _heard(self, message: wire.Message) -> None:
        self._heard_at = time.monotonic()
        match message:
            case Alive(doing):
                self.doing = doing
            case Ready(device, members):
                log.info("worker %s is ready on %s after %.1f s", self.name, device, self._heard_at - self._began_at)
                self.is_ready, self.doing = True, "waiting for jobs"
                self._members = frozenset(members)
                self._slots_changed.set()
            case Holds(members):
                self._members = frozenset(members)
            case Started(job_id) | Progress(job_id):
                if job_id in self.jobs:
                    self.jobs[job_id].started = True
                    self._note_movement()
                    self._reports.put_nowait(message)
            case Done(job_id) | Failed(job_id) | Cancelled(job_id):
                if self.jobs.pop(job_id, None):
                    if isinstance(message, Done):
                        self._took.append(self._heard_at - self._busy_since)
                    self._busy_since = self._heard_at
                    self._note_movement()
                    self._reports.put_nowait(message)
                    self._slots_changed.set()

    def _note_movement(self) -> None:
        """A job that waits behind another gets on when that one does."""
        for held in self.jobs.values():
            held.moved_at = time.monotonic()

    async def _watch(self) -> str:
        """Returns when the child has been silent, or its job has stood still, for too long."""
        while True:
            await asyncio.sleep(WATCH_EVERY)
            now = time.monotonic()
            if not self.is_ready and now - self._began_at > self._stall_seconds:
                return f"it was not ready after {self._stall_seconds:g} s"
            # Loading weights may hold the interpreter for long; silence counts once the child has been ready.
            if self.is_ready and now - self._heard_at > self._silence_seconds:
                return f"it said nothing for {self._silence_seconds:g} s"
            if any(now - held.moved_at > self._stall_seconds for held in self.jobs.values()):
                return f"its job made no step for {self._stall_seconds:g} s"

    def _report_lost(self, reason: str) -> None:
        lost, self.jobs = self.jobs, {}
        for job_id, held in lost.items():
            self._reports.put_nowait(Lost(job_id, reason, held.started))
        self._slots_changed.set()


def _kill(process: asyncio.subprocess.Process) -> None:
    """The child and whatever it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _cause_of_death(status: int | None) -> str:
    match status:
        case None:
            return "it closed its pipe"
        case 70:
            return "it ran out of memory"
        case status if status < 0:
            return f"it was killed by {signal.Signals(-status).name}"
        case _:
            return f"it ended with status {status}"
