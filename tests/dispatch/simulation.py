"""The scheduler in imagined time: production's dispatchers, upkeep, verbs and placement, driven through thousands of
short histories of load and misfortune, with every law asked after every transaction.

    python -m tests.dispatch.simulation --seeds 20000 --from 0 --json sim.json

A seed draws a history (`Plan`): servers, workers, accounts with their limits, floods and single tasks, and in half of
them what goes wrong. One thread plays it on a loop whose clock leaps from timer to timer, so that minutes pass in
milliseconds and the same seed always tells the same story; `--seeds 1 --from SEED` tells a failed one again.

Real: `Dispatcher`, `Upkeep`, `Queue`, `Signals`, the verbs on SQLite in memory, `place`, and `LocalExecutor` with its
workers' keeper. Imagined: what a child process does (`Worker`), the shelf (`Folder`), and the way to the database
(`Line`), which is slow, breaks, and loses answers. Several servers share the database as they would PostgreSQL, its
notifications included; but a transaction is never interrupted by another: how rows are locked is not tried here.
"""

import argparse
import asyncio
import contextvars
import json
import logging
import random
import selectors
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, create_engine

from fluxserve.dispatch import Dispatcher, Upkeep
from fluxserve.domain.completion import Completion
from fluxserve.domain.credits import work
from fluxserve.domain.errors import TooMany, Unavailable
from fluxserve.domain.generation import Generation, ImageToImage, TextToImage
from fluxserve.domain.job import Cancel, Cancelled, Done, Failed, Job, Picture, Progress, Ready, Started
from fluxserve.domain.task import FIRST_STATES, PUBLIC, Repeatable, State, Submission, allowed_moves
from fluxserve.executors import LocalExecutor, WorkerCommand
from fluxserve.executors.local import _Worker
from fluxserve.storage import Shelf
from fluxserve.tasks import Completions, Database, Held, Queue, Rules, Sought, migrate, open_sqlite
from fluxserve.tasks.accounts import _create, _limit
from fluxserve.tasks.audit import CHECKS
from fluxserve.tasks.repeats import KEPT_SECONDS

T = TypeVar("T")

EPOCH = 1_700_000_000.0  # the wall clock when a history begins
DAY = 86_400.0
WORK_A_SECOND = 100_000  # that a worker does: tasks take up to five seconds
LEASE, RENEW, UPKEEP, STALL = 6.0, 2.0, 5.0, 5.0  # seconds: a fifth of production's or so
LOSSES = 3
RULES = Rules(lease_seconds=LEASE, losses_allowed=LOSSES, most_staged=20)
CREDIT = 100_000_000  # points
QUICK, SLOW = 0.004, 0.5  # seconds that the way to the database takes at most: on most days, on a bad one
OVERHEAD = 0.5  # seconds in which a signal and some transactions have certainly come through on a good day
LONGEST_RECOVERY = 120.0  # seconds after the last misfortune in which everything that can be drawn has ended
LONGEST_START = 1.0  # seconds until a worker is ready
MISFORTUNES = ("crash", "crash", "cut", "cut", "refuse", "forget", "kill", "kill", "jump", "jump", "jump")
TOLD = 60  # last events that a failure shows


class Broken(AssertionError):
    """A law did not hold."""


class Outage(Unavailable):
    """The database can't be reached, or its answer was lost."""


# ---------------------------------------------------------------- what is to happen


@dataclass(frozen=True, slots=True)
class Submit:
    """A task of account number `account`. Its prompt says what becomes of it: "cat", "broken" or "poison".

    `retries` is how often the caller sends it again though it was answered.
    """

    account: int
    generation: Generation
    is_private: bool = False
    deadline: float | None = None
    retries: int = 0


@dataclass(frozen=True, slots=True)
class Stop:
    """Account `account` cancels one of its open tasks, or all."""

    account: int
    which: float
    is_all: bool


@dataclass(frozen=True, slots=True)
class Raise:
    account: int
    limit: int


@dataclass(frozen=True, slots=True)
class Crash:
    """A server ends without a word, or cleanly, and starts again after some seconds."""

    server: int
    seconds: float
    is_clean: bool


@dataclass(frozen=True, slots=True)
class Cut:
    """Nothing that a server asks of the database gets there before the seconds are over: it may come back too late."""

    server: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Refuse:
    """The database refuses everybody."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Forget:
    """A server renews no lease until it starts again."""

    server: int


@dataclass(frozen=True, slots=True)
class Kill:
    """A worker dies, or stands still until it is found out."""

    server: int
    worker: int
    is_hang: bool


@dataclass(frozen=True, slots=True)
class Jump:
    """The database's clock is set."""

    seconds: float


Act = Submit | Stop | Raise | Crash | Cut | Refuse | Forget | Kill | Jump


@dataclass
class Plan:
    """A history before it happens. A calm one has no misfortune, and fairness is measured in it.

    `pools` are those of each server's workers: an account's number, or None for everybody's. `size` is the width,
    height and steps of all tasks, if they are alike.
    """

    is_calm: bool
    limits: list[int]
    pools: list[list[int | None]]
    size: tuple[int, int, int] | None
    acts: list[tuple[float, Act]] = field(default_factory=list)

    @property
    def shares(self) -> bool:
        return len(self.pools) > 1


def plan(chance: random.Random) -> Plan:
    is_calm = chance.random() < 0.5
    count = chance.choice((1, 2, 2, 3, 3, 4, 5, 12))
    size = (128, 128, chance.choice((2, 4, 8))) if chance.random() < 0.5 else None
    drawn = Plan(is_calm, [chance.choice((1, 2, 4, 8)) for _ in range(count)], [], size)
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3))):
        drawn.pools.append([None] * chance.choice((1, 1, 2)))
    privileged = chance.randrange(count) if chance.random() < 0.3 else None
    if privileged is not None and chance.random() < 0.8:
        chance.choice(drawn.pools).append(privileged)
    _plan_load(drawn, privileged, chance)
    if not is_calm:
        _plan_misfortune(drawn, chance)
    drawn.acts.sort(key=lambda act: act[0])
    return drawn


def _plan_load(drawn: Plan, privileged: int | None, chance: random.Random) -> None:
    accounts = list(range(len(drawn.limits)))
    floods = chance.sample(accounts, min(len(accounts), chance.choice((0, 1, 1, 2, 2))))
    if privileged is not None and len(floods) == 2:
        floods = [privileged, chance.choice([account for account in accounts if account != privileged])]
    for account in floods:
        drawn.limits[account] = chance.choice((4, 8, 8))
        at = chance.uniform(0, 1)
        for _ in range(chance.randint(3, 9 if account == privileged else 5)):
            drawn.acts.append((at, _submission(drawn, account, privileged, chance)))
    for account in accounts:
        if account not in floods:
            for _ in range(chance.choice((1, 1, 1, 1, 2))):
                drawn.acts.append((chance.uniform(0, 6), _submission(drawn, account, privileged, chance)))
    for _ in range(chance.choice((0, 0, 1, 2))):
        account = chance.choice(accounts)
        drawn.acts.append((chance.uniform(0, 6), Stop(account, chance.random(), is_all=chance.random() < 0.2)))
    if chance.random() < 0.1:
        account = chance.choice(accounts)
        drawn.acts.append((chance.uniform(0, 6), Raise(account, drawn.limits[account] + chance.randint(1, 3))))


def _submission(drawn: Plan, account: int, privileged: int | None, chance: random.Random) -> Submit:
    words = ("cat",) if drawn.is_calm else ("cat",) * 17 + ("broken", "poison", "gone")
    word = chance.choice(words)
    kind = ImageToImage(word, f"{word}.png", 0.5) if word == "gone" else TextToImage(word)
    sizes = (64, 128, 256)
    width, height, steps = drawn.size or (chance.choice(sizes), chance.choice(sizes), chance.randint(1, 8))
    return Submit(
        account,
        Generation("flux1-schnell", kind, width, height, steps, None, 1),
        is_private=account == privileged and chance.random() < 0.6,
        deadline=None if drawn.is_calm or chance.random() < 0.8 else chance.uniform(0.5, 12),
        retries=0 if drawn.is_calm or chance.random() < 0.8 else chance.randint(1, 2),
    )


def _plan_misfortune(drawn: Plan, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 1, 2, 3, 4))):
        server = chance.randrange(len(drawn.pools))
        act: Act
        match chance.choice(
            ("crash", "crash", "cut", "cut", "refuse", "forget", "kill", "kill", "jump", "jump", "jump")
        ):
            case "crash":
                act = Crash(server, chance.uniform(0, 2 * LEASE), is_clean=chance.random() < 0.3)
            case "cut":
                act = Cut(server, chance.uniform(0, 2 * LEASE))
            case "refuse":
                act = Refuse(chance.uniform(0, LEASE))
            case "forget":
                act = Forget(server)
            case "kill":
                act = Kill(server, chance.randrange(len(drawn.pools[server])), is_hang=chance.random() < 0.4)
            case _:
                seconds = chance.choice((1, LEASE, 60, 3600, DAY, DAY))
                act = Jump(chance.choice((-1, 1)) * chance.uniform(0.5, 1) * seconds)
        drawn.acts.append((chance.uniform(0, 8), act))


# ---------------------------------------------------------------- time


OWNER: contextvars.ContextVar["Server | None"] = contextvars.ContextVar("OWNER", default=None)
"""The server whose task this is; it ends with it."""


class Loop(asyncio.SelectorEventLoop):
    """Time stands still while anything runs, and leaps to the next timer when nothing does. It has no threads."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_Leap(self))
        self.set_task_factory(_owned)

    def time(self) -> float:
        return self.now

    def run_in_executor(self, _executor: Any, function: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        future = self.create_future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


class _Leap(selectors.SelectSelector):
    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Broken("nothing will ever happen again")
        self._loop.now += max(0.0, timeout)
        return []


def _owned(loop: asyncio.AbstractEventLoop, run: Any, **more: Any) -> asyncio.Task[Any]:
    task: asyncio.Task[Any] = asyncio.Task(run, loop=loop, **more)
    if owner := OWNER.get():
        owner.running[task] = None
        task.add_done_callback(owner.running.pop)
    return task


# ---------------------------------------------------------------- the database


@dataclass(frozen=True, slots=True)
class Moved:
    """What a trigger saw: a task came, or its state was written."""

    number: int
    id: str
    account_id: str
    pool: str
    work: int
    before: str | None
    after: str
    attempt: int
    lease_until: float | None


class Tables:
    """One migrated SQLite in memory for all histories, emptied before each: SQLAlchemy compiles its statements once."""

    def __init__(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = open_sqlite(Path(folder) / "empty.sqlite")
            migrate(file)
            file.dispose()
            self._empty = sqlite3.connect(":memory:")
            with closing(sqlite3.connect(Path(folder) / "empty.sqlite")) as made:
                made.backup(self._empty)
        # Transactions are begun and ended in SQLite itself: SQLAlchemy's own take a tenth of all the time.
        self._connection = create_engine("sqlite://", isolation_level="AUTOCOMMIT").connect()
        driver = self._connection.connection.driver_connection
        assert driver is not None
        self._driver: Any = driver
        self._driver.create_function("moved", 9, lambda *values: self.moves.append(Moved(*values)))
        self._driver.create_function("pg_notify", 2, lambda _channel, payload: self.notices.append(payload))
        self.moves: list[Moved] = []
        self.notices: list[str] = []

    def empty(self) -> None:
        self._empty.backup(self._driver)
        self._driver.executescript("""
            PRAGMA foreign_keys = ON;
            DROP TRIGGER IF EXISTS came;
            DROP TRIGGER IF EXISTS went;
            CREATE TEMP TRIGGER came AFTER INSERT ON main.tasks BEGIN
                SELECT moved(NEW.number, NEW.id, NEW.account_id, NEW.pool, NEW.work, NULL, NEW.state, NEW.attempt,
                             NULL);
            END;
            CREATE TEMP TRIGGER went AFTER UPDATE OF state ON main.tasks BEGIN
                SELECT moved(NEW.number, NEW.id, NEW.account_id, NEW.pool, NEW.work, OLD.state, NEW.state, NEW.attempt,
                             OLD.lease_until);
            END;
        """)

    def transaction(self, verb: Callable[[Connection], T]) -> T:
        """`moves` and `notices` are afterwards what it did."""
        self.moves.clear()
        self.notices.clear()
        self._driver.execute("BEGIN")
        try:
            result = verb(self._connection)
        except BaseException:
            self._driver.execute("ROLLBACK")
            self.moves.clear()
            self.notices.clear()
            raise
        self._driver.execute("COMMIT")
        return result

    def rows(self, query: str, *values: object) -> list[Any]:
        found: list[Any] = self._driver.execute(query, values).fetchall()
        return found

    def audit(self) -> list[str]:
        return [law for law, query in CHECKS.items() if self._driver.execute(query).fetchone()]


class Line(Database):
    """A server's way to the database: it takes its time, is cut, and loses answers."""

    def __init__(self, world: "World", server: "Server") -> None:
        self.is_shared = world.plan.shares
        self.cut_until = 0.0
        self.refusals = 0
        self._world = world
        self._server = server

    def now(self, _connection: Connection) -> float:
        return self._world.wall

    async def write(self, verb: Callable[[Connection], T]) -> T:
        result = await self.read(verb)
        await self._way()
        if not self._server.is_up or self._world.loses_answer():
            raise Outage("it was done, but nobody heard of it")
        return result

    async def read(self, look: Callable[[Connection], T]) -> T:
        """A look changes nothing: its way back may as well be the beginning of what follows."""
        await self._way()
        if not self._server.is_up or self._world.loop.now < self._world.refused_until:
            self.refusals += 1
            raise Outage("it can't be reached")
        return self._world.transaction(look, self._server)

    glance = read

    async def _way(self) -> None:
        await asyncio.sleep(self._world.chance.uniform(0, self._world.distance))
        while (left := self.cut_until - self._world.loop.now) > 0:
            await asyncio.sleep(left)


# ---------------------------------------------------------------- workers and the shelf


class Worker(_Worker):
    """Production's keeper of a child, with an imagined child: it draws one job after another, each as long as its work
    says, until it is killed.
    """

    def __init__(self, world: "World", executor: LocalExecutor, command: WorkerCommand) -> None:
        super().__init__(command, executor.reports, executor.slots_changed, STALL, STALL)
        self._world = world

    async def _live(self) -> str:
        self._inbox: list[Job] = []
        self._arrived = asyncio.Event()
        self._stopped: set[str] = set()
        self._death: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._child = asyncio.create_task(self._draw_all())
        try:
            return await self._death
        finally:
            self._child.cancel()

    def _send(self, message: Job | Cancel) -> None:
        match message:
            case Job():
                self._inbox.append(message)
                self._arrived.set()
            case Cancel(job_id):
                self._stopped.add(job_id)

    def kill(self, reason: str) -> None:
        if not self._death.done():
            self._death.set_result(reason)

    def hang(self) -> None:
        self._child.cancel()
        asyncio.get_running_loop().call_later(STALL, self.kill, "it stood still")

    async def _draw_all(self) -> None:
        await asyncio.sleep(self._world.chance.uniform(0, LONGEST_START))
        self._heard(Ready("imagined", ()))
        while True:
            while not self._inbox:
                self._arrived.clear()
                await self._arrived.wait()
            await self._draw(self._inbox.pop(0))

    async def _draw(self, job: Job) -> None:
        seconds = work(job.generation) / WORK_A_SECOND
        self._world.laws.begins(job.id, seconds)
        self._heard(Started(job.id))
        for step in (1, 2):
            await asyncio.sleep(seconds / 2)
            if job.id in self._stopped:
                self._heard(Cancelled(job.id))
                return
            self._heard(Progress(job.id, step, 2))
        match job.generation.kind.prompt:
            case "poison":
                self.kill("it was poisoned")
            case "broken":
                self._heard(Failed(job.id, "drawing_failed", "it broke"))
            case _:
                self._heard(Done(job.id, (Picture(job.id.encode(), 1, 1, 1),), seconds))


class Hands(LocalExecutor):
    def __init__(self, world: "World", commands: list[WorkerCommand]) -> None:
        super().__init__((), silence_seconds=STALL, stall_seconds=STALL)
        self._workers = {command.name: Worker(world, self, command) for command in commands}
        self._world = world

    def assign(self, slot: Any, job: Job) -> None:
        self._world.laws.is_handed_over(job.id, self._workers[slot.worker].pool)
        super().assign(slot, job)

    @property
    def workers(self) -> list[Worker]:
        return [worker for worker in self._workers.values() if isinstance(worker, Worker)]


class Folder(Shelf):
    """A shelf that all servers share, now and then full. Callers' pictures are there, but for those called gone."""

    def __init__(self, world: "World") -> None:
        self.pictures: dict[str, bytes] = {}
        self._world = world

    def put(self, key: str, data: bytes) -> None:
        if self._world.shelf_is_full():
            raise OSError(28, "No space left on device")
        self.pictures[key] = data

    def path(self, key: str) -> Path:
        return Path("/nowhere") / key

    def delete(self, key: str) -> None:
        self.pictures.pop(key, None)


# ---------------------------------------------------------------- servers


class Renewing(Queue):
    """Production's, but its renewals may stop."""

    is_renewing = True

    async def renew(self, held: Iterable[Held]) -> set[Held]:
        return await super().renew(held) if self.is_renewing else set(held)


class NoCompletions(Completions):
    """Text models are not tried here."""

    async def rescue(self, *, everything: bool = False) -> list[Completion]:
        del everything
        return []

    async def forget_old_answers(self) -> None:
        pass


class Server:
    """The parts of one, built and started as `fluxserve.server` does."""

    def __init__(self, world: "World", number: int) -> None:
        self.number = number
        self.is_up = True
        self.running: dict[asyncio.Task[Any], None] = {}
        self._world = world
        self.line = Line(world, self)
        self.queue = Renewing(self.line, RULES)
        pools = [PUBLIC if pool is None else world.account_ids[pool] for pool in world.plan.pools[number]]
        self.hands = Hands(world, [WorkerCommand(f"w{place}", (), pool) for place, pool in enumerate(pools)])
        self.dispatcher = Dispatcher(
            queue=self.queue,
            executor=self.hands,
            shelf=world.shelf,
            keep_seconds=7 * DAY,
            renew_every=RENEW,
            clock=lambda: world.wall,
        )
        self.upkeep = Upkeep(queue=self.queue, completions=NoCompletions(self.line), shelf=world.shelf, every=UPKEEP)

    def start(self) -> None:
        context = contextvars.copy_context()
        context.run(OWNER.set, self)
        self._world.loop.create_task(self._start(), context=context)

    async def _start(self) -> None:
        while not self._world.plan.shares:
            try:
                await self.queue.rescue(everything=True)
                break
            except Outage:
                await asyncio.sleep(1)  # it would not start, and be started again
        self.hands.start()
        self.dispatcher.start()
        self.upkeep.start()
        self.queue.signals.give_all()

    async def stop(self) -> None:
        """Cleanly; but for an outage, nothing waits for its lease to run out then."""
        refusals = self.line.refusals
        await self.upkeep.stop()
        await self.dispatcher.stop(self._world.chance.uniform(0, 3), asyncio.Event())
        if self.is_up and self.line.refusals == refusals:  # it may have crashed meanwhile, or the database been away
            self._world.laws.stops(self)
        self.crash()

    def crash(self) -> None:
        self.is_up = False
        for task in list(self.running):
            task.cancel()


# ---------------------------------------------------------------- the laws


@dataclass
class Known:
    """A task as its moves have told of it. `holder` is who claimed it; `begun` are its attempts at workers."""

    number: int
    id: str
    account_id: str
    pool: str
    work: int
    came_at: float
    came_at_wall: float
    state: str
    attempt: int = 0
    holder: Server | None = None
    most_wait: float | None = None
    begun_at: float | None = None

    def __str__(self) -> str:
        return f"task {self.number}"


OVER_ITS_LIMIT = """
    SELECT a.id FROM accounts a JOIN tasks t ON t.account_id = a.id AND t.state IN ('pending', 'processing')
    GROUP BY a.id, a.max_concurrent HAVING COUNT(*) > a.max_concurrent"""


class Laws:
    """What must hold, asked of each move and each commit. Raises `Broken` through the world."""

    def __init__(self, world: "World") -> None:
        self.tasks: dict[str, Known] = {}
        self.handed_over: set[str] = set()
        self.waits: list[float] = []  # of accounts' first tasks, as parts of the longest that they may be
        self._world = world
        self._turns = Turns(world) if world.plan.is_calm else None

    def look(self, server: Server | None) -> None:
        """After a commit that `server` made."""
        tables, world = self._world.tables, self._world
        if not tables.moves:
            return
        came = []
        for move in tables.moves:
            if move.before is None:
                task = Known(
                    move.number, move.id, move.account_id, move.pool, move.work, world.loop.now, world.wall, move.after
                )
                self.tasks[move.id] = task
                came.append(task)
                self._demand(move.after in FIRST_STATES, f"{task} came as {move.after}")
            else:
                self._follow(self.tasks[move.id], move, server)
            world.tell(f"{self.tasks[move.id]}", move.before or "", move.after, move.attempt)
        for finding in tables.audit():
            self._demand(False, f"not true: {finding}")
        # The audit can't ask this, for a limit may be lowered; here none is.
        self._demand(not tables.rows(OVER_ITS_LIMIT), "an account has more tasks waiting and running than it may")
        if self._turns:
            for move in tables.moves:
                self._turns.follow(self.tasks[move.id], move)
            for task in came:
                if task.pool == PUBLIC and task.state == State.PENDING:
                    task.most_wait = self._turns.most_wait(task, self.tasks)

    def _follow(self, task: Known, move: Moved, server: Server | None) -> None:
        before, after = State(move.before or ""), State(move.after)
        self._demand(task.state == before, f"{task} was {task.state}, and went on from {before}")
        self._demand((before, after) in allowed_moves(), f"{task} went from {before} to {after}")
        if after is State.PROCESSING:
            self._demand(move.attempt == task.attempt + 1, f"attempt {task.attempt} was followed by {move.attempt}")
            task.holder = server
        else:
            self._demand(move.attempt == task.attempt, f"{task} got attempt {move.attempt} by being {after}")
        if before is State.STAGED and after is State.PENDING:
            older = [each for each in self.tasks.values() if each.account_id == task.account_id]
            is_oldest = not any(each.state == before and each.number < task.number for each in older)
            self._demand(is_oldest, f"{task} was promoted before an older one")
        if before is State.PROCESSING and server is not task.holder and self._world.plan.shares:
            was_over = move.lease_until is not None and move.lease_until < self._world.wall
            self._demand(was_over, f"{task} was taken away while its lease ran")
        if after is State.COMPLETED:
            self._is_drawn(task, move)
        if self._world.plan.is_calm:
            self._demand(move.attempt <= 1, f"{task} was tried again though nothing had happened")
        task.state, task.attempt = after, move.attempt

    def _is_drawn(self, task: Known, move: Moved) -> None:
        rows = self._world.tables.rows("SELECT key FROM outputs WHERE task_id = ?", task.id)
        pictures = [self._world.shelf.pictures.get(key) for (key,) in rows]
        job = f"{task.id} attempt {move.attempt}"
        self._demand(pictures == [job.encode()], f"{task} was completed with {pictures}, not by attempt {move.attempt}")

    def is_handed_over(self, job_id: str, pool: str) -> None:
        task = self.tasks[job_id.partition(" ")[0]]
        self._demand(task.pool == pool, f"{task} of pool {task.pool} was handed to a worker of {pool}")
        self._demand(job_id not in self.handed_over, f"{job_id} was handed over twice")
        self.handed_over.add(job_id)

    def begins(self, job_id: str, seconds: float) -> None:
        task = self.tasks[job_id.partition(" ")[0]]
        now = self._world.loop.now
        task.begun_at = now
        self._world.tell(str(task), "begins", job_id.rpartition(" ")[2], f"{seconds:.2f} s")
        if task.most_wait is not None:
            waited = now - task.came_at
            self.waits.append(waited / task.most_wait)
            self._demand(
                waited <= task.most_wait,
                f"{task}, its account's first, began after {waited:.2f} s, not within {task.most_wait:.2f} s",
            )

    def stops(self, server: Server) -> None:
        held = [str(task) for task in self.tasks.values() if task.holder is server and task.state == State.PROCESSING]
        if not self._world.has_lost_answers:
            self._demand(not held, f"a clean stop left {', '.join(held)} to its lease")

    def open(self) -> list[Known]:
        return [task for task in self.tasks.values() if not State(task.state).is_final]

    def at_the_end(self, accepted: set[str]) -> None:
        """When every task has ended: all that were accepted have, and each point is where it should be."""
        self._demand(accepted <= self.tasks.keys(), "a task was accepted that is not there")
        tables = self._world.tables
        ends = Counter(dict(tables.rows("SELECT state, COUNT(*) FROM tasks GROUP BY state")))
        self._demand(set(ends) <= {"completed", "failed"}, f"at the end there are {dict(ends)}")
        self._demand(sum(ends.values()) == len(self.tasks), "a task has vanished")
        wrong = tables.rows(
            """SELECT a.id FROM accounts a WHERE a.frozen <> 0 OR a.balance <> ? - COALESCE(
               (SELECT SUM(t.price) FROM tasks t WHERE t.account_id = a.id AND t.state = 'completed'), 0)""",
            CREDIT,
        )
        self._demand(not wrong, "an account has not paid what was completed")

    def _demand(self, holds: bool, law: str) -> None:
        if not holds:
            self._world.breaks(law)


class Turns:
    """Whether turns are fair, by what is claimed of the public pool in a calm history.

    Two accounts that both have tasks waiting are given the same work, but for one task of each (Goyal et al., 1996,
    theorem 1), and with several servers for what each places without knowing of the others. A task waits, for this,
    once it can be seen by whoever claims: placing takes two transactions.

    And the first task of an account begins within twice its solo wait and one task's length, the longest there is. Its
    solo wait is how long the workers would need, all together, for what they already have and one task, its largest,
    of each other account that has some waiting: as if nobody had more.
    """

    def __init__(self, world: "World") -> None:
        self._world = world
        self._workers = sum(pool is None for pools in world.plan.pools for pool in pools)
        self._waiting: dict[str, dict[int, tuple[float, int]]] = {}  # by account and task: since when, and its work
        self._largest: dict[str, int] = {}  # of each account
        self._ahead: dict[tuple[str, str], tuple[int, int, int]] = {}  # of two accounts: now, at least, at most

    def follow(self, task: Known, move: Moved) -> None:
        if task.pool != PUBLIC:
            return
        mine = self._waiting.setdefault(task.account_id, {})
        if move.after == State.PENDING:
            mine[task.number] = self._world.loop.now, task.work
            self._largest[task.account_id] = max(task.work, self._largest.get(task.account_id, 0))
        elif mine.pop(task.number, None) is not None:
            if move.after == State.PROCESSING:
                self._is_claimed(task)
            if not mine:
                self._ahead = {pair: by for pair, by in self._ahead.items() if task.account_id not in pair}

    def _is_claimed(self, task: Known) -> None:
        seen_since = self._world.loop.now - 4 * QUICK
        for other, waiting in self._waiting.items():
            if other == task.account_id or all(since > seen_since for since, _ in waiting.values()):
                continue
            pair = (min(task.account_id, other), max(task.account_id, other))
            now, low, high = self._ahead.get(pair, (0, 0, 0))
            now += task.work if pair[0] == task.account_id else -task.work
            self._ahead[pair] = now, min(low, now), max(high, now)
            ahead = max(high, now) - min(low, now)
            most = self._largest[pair[0]] + self._largest[pair[1]]
            if ahead > most * self._world.staleness:
                self._world.breaks(f"one account was given {ahead} work more than another that had tasks waiting too")

    def most_wait(self, task: Known, tasks: dict[str, Known]) -> float | None:
        """For a task that has just come; None if its account had another before."""
        now = self._world.loop.now
        ahead = 0.0
        for other in tasks.values():
            if other is task or other.pool != PUBLIC:
                continue
            if other.account_id == task.account_id:
                return None
            if other.state == State.PROCESSING:
                length = other.work / WORK_A_SECOND
                ahead += length if other.begun_at is None else max(0.0, other.begun_at + length - now)
        ahead += sum(
            max(size for _, size in waiting.values()) / WORK_A_SECOND
            for account, waiting in self._waiting.items()
            if waiting and account != task.account_id
        )
        longest = max(other.work for other in tasks.values()) / WORK_A_SECOND
        return 2 * ahead / self._workers + longest + OVERHEAD


# ---------------------------------------------------------------- a history


class World:
    """One history, from its plan to its end."""

    def __init__(self, seed: int, tables: Tables, loop: Loop) -> None:
        self.chance = random.Random(seed)
        self.plan = plan(self.chance)
        self.tables = tables
        self.loop = loop
        self.offset = 0.0
        self.refused_until = 0.0
        self.has_lost_answers = False
        is_bad = not self.plan.is_calm and self.chance.random() < 0.3
        self.distance = SLOW if is_bad else QUICK
        self.lossy = 0.03 if is_bad else 0.0
        self.staleness = 2 * len(self.plan.pools) - 1  # batches that may be placed by what was true before another's
        self.events: list[tuple[float, tuple[object, ...]]] = []
        self.broken: str | None = None
        self.shelf = Folder(self)
        self.account_ids: list[str] = []
        self.laws = Laws(self)
        self.servers: list[Server] = []
        self._accepted: set[str] = set()
        self._fetched = 0
        self._keys: dict[tuple[str, str], str] = {}  # the task that each account's key made first

    @property
    def wall(self) -> float:
        return EPOCH + self.loop.now + self.offset

    # ------------------------------------------------------------ what happens by itself

    def loses_answer(self) -> bool:
        is_lost = self.chance.random() < self.lossy
        self.has_lost_answers |= is_lost
        return is_lost

    def shelf_is_full(self) -> bool:
        return self.chance.random() < 3 * self.lossy

    def transaction(self, verb: Callable[[Connection], T], server: Server | None) -> T:
        result = self.tables.transaction(verb)
        self.laws.look(server)
        for payload in self.tables.notices:
            for other in self.servers:
                if other.is_up and self.chance.random() >= self.lossy:
                    self.loop.call_later(self.chance.uniform(0, 0.05), other.queue.signals.give, payload)
        return result

    def tell(self, *what: object) -> None:
        self.events.append((self.loop.now, what))

    def story(self) -> str:
        return "\n".join(f"{at:9.3f}  {' '.join(map(str, what))}" for at, what in self.events)

    def breaks(self, law: str) -> None:
        """Remembered too: production's loops log whatever is raised in them, and go on."""
        self.tell("BROKEN", law)
        self.broken = self.broken or law
        raise Broken(law)

    # ------------------------------------------------------------ from beginning to end

    async def run(self) -> None:
        for number, limit in enumerate(self.plan.limits):
            account = self.tables.transaction(
                lambda connection, name=f"a{number}", limit=limit: _create(  # type: ignore[misc]
                    connection, self.wall, name, CREDIT, limit
                )
            )
            self.account_ids.append(account.id)
        self.servers = [Server(self, number) for number in range(len(self.plan.pools))]
        for server in self.servers:
            server.start()
        acting = []
        for at, act in self.plan.acts:
            await asyncio.sleep(max(0.0, at + LONGEST_START - self.loop.now))
            self._look_up()
            acting.append(asyncio.create_task(self._act(act)))
        for done in acting:
            await done
        self._calm_down()
        await self._ends(self._can_be_drawn, LONGEST_RECOVERY)
        self.offset += 2 * DAY  # what can't be ends by its deadline
        await self._ends(lambda _task: True, LONGEST_RECOVERY)
        self.laws.at_the_end(self._accepted)

    def _calm_down(self) -> None:
        """The last misfortune is over."""
        self.refused_until = 0.0
        self.lossy = 0.0
        for server in self.servers:
            server.line.cut_until = 0.0

    async def _ends(self, concerns: Callable[[Known], bool], within: float) -> None:
        since = self.loop.now
        while stuck := [task for task in self.laws.open() if concerns(task)]:
            if self.loop.now - since > within:
                self.breaks(f"{stuck[0]} is still {stuck[0].state} {within:.0f} s after the last misfortune")
            await asyncio.sleep(0.5)
            self._look_up()

    def _can_be_drawn(self, task: Known) -> bool:
        """Its pool has workers; and if it is staged, so has that of each task that may keep it so."""
        keeping = [task]
        if task.state == State.STAGED:
            keeping = [other for other in self.laws.open() if other.account_id == task.account_id]
        drawn = {self.account_ids[own] for pools in self.plan.pools for own in pools if own is not None} | {PUBLIC}
        return all(other.pool in drawn for other in keeping)

    def _look_up(self) -> None:
        if self.broken:
            raise Broken(self.broken)

    # ------------------------------------------------------------ acts

    async def _act(self, act: Act) -> None:
        if not isinstance(act, Submit):
            self.tell(act)
        match act:
            case Submit():
                await self._submit(act)
            case Stop(account, which, is_all):
                await self._cancel(self.account_ids[account], which, is_all)
            case Raise(account, limit):
                account_id = self.account_ids[account]
                self.transaction(lambda connection: _limit(connection, account_id, limit), None)
            case Crash(number, seconds, is_clean):
                await self._restart(number, seconds, is_clean)
            case Cut(number, seconds):
                self.servers[number].line.cut_until = self.loop.now + seconds
            case Refuse(seconds):
                self.refused_until = self.loop.now + seconds
            case Forget(number):
                self.servers[number].queue.is_renewing = False
            case Kill(number, place, is_hang):
                worker = self.servers[number].hands.workers[place]
                if worker.is_ready:
                    worker.hang() if is_hang else worker.kill("killed")
            case Jump(seconds):
                self.offset += seconds

    async def _submit(self, asked: Submit) -> None:
        """As a caller does who sends it again, with its key, until it is answered; and then, perhaps, once more."""
        account_id, key = self.account_ids[asked.account], f"{len(self.events)}"
        repeatable = None if self.plan.is_calm else Repeatable(key, b"body")

        def submission() -> Submission:
            generation = asked.generation
            if isinstance(generation.kind, ImageToImage):  # fetched anew, and stored under a key of its own
                self._fetched += 1
                generation = replace(generation, kind=replace(generation.kind, image=f"gone-{self._fetched}.png"))
            return Submission(
                account_id,
                {},
                generation,
                is_private=asked.is_private,
                deadline_seconds=asked.deadline,
                repeatable=repeatable,
            )

        for _ in range(asked.retries + 1):
            task = await self._until_answered(lambda queue: queue.submit(submission()))
            if task is None:
                return
            self._accepted.add(task.id)
            if repeatable:
                first = self._keys.setdefault((account_id, key), task.id)
                now, before = self.laws.tasks[task.id], self.laws.tasks[first]
                if now is not before and now.came_at_wall - before.came_at_wall < KEPT_SECONDS:
                    self.breaks(f"one key made {before} and {now}")
            await asyncio.sleep(self.chance.uniform(0, 3))

    async def _cancel(self, account_id: str, which: float, is_all: bool) -> None:
        mine = [task for task in self.laws.open() if task.account_id == account_id]
        if is_all:
            await self._until_answered(lambda queue: queue.cancel_all(account_id, Sought()))
        elif mine:
            task_id = mine[int(which * len(mine))].id
            await self._until_answered(lambda queue: queue.cancel(account_id, task_id))

    async def _until_answered(self, ask: Callable[[Queue], Coroutine[Any, Any, T]]) -> T | None:
        """Of any server that is up; None if it was refused."""
        while True:
            up = [server for server in self.servers if server.is_up]
            try:
                if up:
                    return await ask(self.chance.choice(up).queue)
            except TooMany:
                return None
            except Outage:
                pass
            await asyncio.sleep(1)

    async def _restart(self, number: int, seconds: float, is_clean: bool) -> None:
        server = self.servers[number]
        if not server.is_up:
            return
        try:
            if is_clean:
                await server.stop()
        except Outage:
            pass
        server.crash()
        await asyncio.sleep(seconds)
        if self.servers[number] is server:
            self.servers[number] = Server(self, number)
            self.servers[number].start()


class Ear(logging.Handler):
    """Production's loops log what breaks in them and go on: what they could not expect is a broken law."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.world: World | None = None

    def emit(self, record: logging.LogRecord) -> None:
        self.hears(record.getMessage(), record.exc_info[1] if record.exc_info else None)

    def hears(self, message: str, error: BaseException | None) -> None:
        if self.world and error is not None and not isinstance(error, Outage | OSError):
            self.world.broken = self.world.broken or f"{message}: {error!r}"


# ---------------------------------------------------------------- many histories


@dataclass
class Report:
    seeds: int
    first: int
    calm: int = 0
    tasks: int = 0
    events: int = 0  # moves of tasks, beginnings at workers, and acts
    imagined_seconds: float = 0.0
    longest_wait: float = 0.0  # of an account's first task, as a part of the longest that it may be
    seconds: float = 0.0
    broken: str | None = None
    seed: int | None = None
    last_events: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"{self.seeds} seeds from {self.first}, {self.calm} of them calm: {self.tasks} tasks, {self.events} "
            f"events, {self.imagined_seconds / 3600:.1f} h in {self.seconds:.1f} s",
            f"the longest wait of an account's first task was {self.longest_wait:.0%} of what it may be",
        ]
        if self.broken:
            lines += [*self.last_events, f"seed {self.seed}: {self.broken}"]
        return "\n".join(lines)


def run(seeds: int, first: int = 0, *, progress: Callable[[Report], None] = lambda _report: None) -> Report:
    """So many histories, until one breaks a law."""
    began = time.monotonic()
    report = Report(0, first)
    tables = Tables()
    with _hearing() as ear:
        for seed in range(first, first + seeds):
            _play(seed, tables, ear, report)
            report.seeds += 1
            report.seconds = time.monotonic() - began
            if report.broken:
                break
            progress(report)
    return report


def _play(seed: int, tables: Tables, ear: Ear, report: Report) -> None:
    loop = Loop()
    tables.empty()
    world = ear.world = World(seed, tables, loop)
    loop.set_exception_handler(lambda _loop, about: ear.hears(about["message"], about.get("exception")))
    try:
        loop.run_until_complete(world.run())
        world._look_up()
    except Exception as error:
        report.broken, report.seed = world.broken or repr(error), seed
        report.last_events = world.story().splitlines()[-TOLD:]
    finally:
        _end_all(loop)
    report.calm += world.plan.is_calm
    report.tasks += len(world.laws.tasks)
    report.events += len(world.events)
    report.imagined_seconds += loop.now
    report.longest_wait = max(report.longest_wait, *world.laws.waits, 0.0)


def told(seed: int) -> str:
    """All that happens in one history, a line each."""
    loop, tables = Loop(), Tables()
    tables.empty()
    world = World(seed, tables, loop)
    with _hearing() as ear:
        ear.world = world
        loop.run_until_complete(world.run())
        _end_all(loop)
    return world.story()


def _end_all(loop: Loop) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


@contextmanager
def _hearing() -> Iterator[Ear]:
    """Nothing is printed of what goes wrong on purpose."""
    logger, ear = logging.getLogger("fluxserve"), Ear()
    propagates, logger.propagate = logger.propagate, False
    logger.addHandler(ear)
    try:
        yield ear
    finally:
        logger.removeHandler(ear)
        logger.propagate = propagates


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.dispatch.simulation", description="Live many short lives.")
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first seed")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    chosen = parser.parse_args()

    def progress(report: Report) -> None:
        if report.seeds % 1000 == 0:
            print(report, flush=True)

    report = run(chosen.seeds, chosen.first, progress=progress)
    print(report)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(asdict(report), indent=1) + "\n")
    if report.broken:
        sys.exit(1)


if __name__ == "__main__":
    main()
