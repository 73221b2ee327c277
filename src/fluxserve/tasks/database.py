"""The one way to the database: a verb is a function of a connection, run inside a transaction.

`Database.write` runs a verb and returns when its transaction is durable. All writes of a process go through one thread
that takes whatever verbs are waiting and commits them together: a durable commit is a disk flush, and sixteen callers
can share one. Nobody is answered before the commit. If a verb raises, nothing was done: all run again with a savepoint
each, and that verb loses its own and nothing else. Several servers on one PostgreSQL have such a thread each, and their
batches take turns: batches that lock the rows of several accounts, each in its own order, would end in deadlocks, of
which each costs a second. A deadlock with somebody else, which PostgreSQL ends, is tried again verb by verb.

`Database.mark` is `write` without the flush, for what a power loss may undo as if it had never been. A kill -9 undoes
nothing: what is committed is the system's by then.

`Database.read` runs a function on a reading connection of its own, beside the writer; `Database.glance` the same for a
row or two by their keys, which in a file takes less time than the way to another thread and back.

When the database is gone, every caller is told `Unavailable`. Whether a commit that was cut off was done is not known:
a caller who gave an idempotency key asks again and is told.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError, InterfaceError, InternalError, OperationalError

from fluxserve.domain.errors import Unavailable

log = logging.getLogger(__name__)

T = TypeVar("T")
Verb = Callable[[Connection], T]
Waiting = tuple[Verb[Any], Future[Any], bool]  # the last: whether it must be durable

MOST_TOGETHER = 64  # verbs in one commit
TRIES = 5  # of a verb that keeps meeting another server's
COLLISIONS = ("40P01", "40001")  # PostgreSQL's numbers for a deadlock and a serialization failure: nothing was done
ITS_OWN = (OperationalError, InterfaceError, InternalError)  # errors of the database, not of what it was told to do
TURN = 7_346_114  # any number that is ours: the lock of the batch whose turn it is
REFUSAL = (
    "the database can't be reached just now, and whether this was done is not known; send it again soon, with the same "
    "Idempotency-Key if it had one: then it is done once"
)
# With the time once it is our turn. A batch has one time: asking anew for each of its verbs costs a way there and back.
_TAKE_TURN = text(
    "SELECT extract(epoch FROM clock_timestamp())::float8 FROM (SELECT pg_advisory_xact_lock(:number) OFFSET 0) AS turn"
)
_WITHOUT_FLUSH = text("SET LOCAL synchronous_commit = off")
_DATABASE_CLOCK = text("SELECT extract(epoch FROM clock_timestamp())::float8")


class Database:
    """Runs verbs on an engine of `fluxserve.tasks.engines`, from async code."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.is_shared = engine.dialect.name == "postgresql"  # with other servers, as a file never is
        # In PostgreSQL each statement of such a transaction sees what is committed by then, and so does one without.
        how = {"isolation_level": "AUTOCOMMIT"} if self.is_shared else {"reads_only": True}
        self._reading = engine.execution_options(**how)
        self._has_raised = False
        self._waiting: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="database-read")
        self._writer = threading.Thread(target=self._write_all, name="database-write", daemon=True)
        self._writer.start()

    def now(self, connection: Connection) -> float:
        """The time that leases and deadlines go by, in unix seconds: the database's own where servers share one."""
        if not self.is_shared:
            return time.time()
        seconds: float | None = connection.get_execution_options().get("now")
        return connection.execute(_DATABASE_CLOCK).scalar_one() if seconds is None else seconds

    async def write(self, verb: Verb[T]) -> T:
        """Run `verb` in a transaction; when this returns, what it did survives a power loss."""
        return await asyncio.wrap_future(self.submit(verb))

    async def mark(self, verb: Verb[T]) -> T:
        """The same, but that a power loss within the next moments may undo it. Whatever `write` does later is durable
        together with it."""
        return await asyncio.wrap_future(self.submit(verb, is_durable=False))

    def submit(self, verb: Verb[T], *, is_durable: bool = True) -> Future[T]:
        """The same for code that is not async."""
        future: Future[T] = Future()
        self._waiting.put((verb, future, is_durable))
        return future

    async def read(self, look: Verb[T]) -> T:
        """Run `look` on what is committed."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, look)

    async def glance(self, look: Verb[T]) -> T:
        """The same for a row or two by their keys."""
        return await self.read(look) if self.is_shared else self._read(look)

    def close(self) -> None:
        """Finish what is waiting, then let go of the files."""
        self._waiting.put(None)
        self._writer.join()
        self._readers.shutdown()
        self.engine.dispose()

    def _read(self, look: Verb[T]) -> T:
        try:
            with self._reading.connect() as connection:
                try:
                    return look(connection)
                except ITS_OWN as error:
                    if not error.connection_invalidated:
                        raise
                    connection.rollback()  # it broke while nobody used it, as all do when PostgreSQL starts again
                    return look(connection)
        except ITS_OWN as error:
            raise _refusal(error) from error

    def _write_all(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch = [first]
            while len(batch) < MOST_TOGETHER:
                try:
                    following = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    self._waiting.put(None)
                    break
                batch.append(following)
            self._commit_together(batch)

    def _commit_together(self, batch: list[Waiting]) -> None:
        running = [each for each in batch if each[1].set_running_or_notify_cancel()]
        try:
            endings = self._transaction(running)
        except DBAPIError as error:
            if _is_collision(error):
                endings = [ending for each in running for ending in self._alone(each)]
            else:
                endings = _all_refused(running, error)
        except BaseException as error:
            endings = _all_refused(running, error)
        for end in endings:
            end()

    def _transaction(self, running: list[Waiting]) -> list[Callable[[], None]]:
        """Run them and commit. Returns how each future is to be ended."""
        if not self._has_raised:
            try:
                return self._all_or_none(running)
            except ITS_OWN:
                raise
            except BaseException:
                self._has_raised = True  # where one verb is refused, the next one often is too
        return self._apart(running)

    def _all_or_none(self, running: list[Waiting]) -> list[Callable[[], None]]:
        with self._begun(running) as connection:
            return [_ending(future.set_result, verb(connection)) for verb, future, _ in running]

    def _apart(self, running: list[Waiting]) -> list[Callable[[], None]]:
        endings: list[Callable[[], None]] = []
        self._has_raised = False
        with self._begun(running) as connection:
            for verb, future, _ in running:
                try:
                    with connection.begin_nested():
                        result = verb(connection)
                except ITS_OWN:
                    raise  # the database itself: nothing of this batch may be believed
                except BaseException as error:
                    self._has_raised = True
                    endings.append(_ending(future.set_exception, error))
                else:
                    endings.append(_ending(future.set_result, result))
        return endings

    @contextmanager
    def _begun(self, running: list[Waiting]) -> Iterator[Connection]:
        """A transaction for them that is committed at the end; in a shared database once it is our turn."""
        is_durable = any(each[2] for each in running)
        with self.engine.connect() as connection:
            if self.is_shared:
                connection.execution_options(now=self._take_turn(connection))
                if not is_durable:
                    connection.execute(_WITHOUT_FLUSH)
            else:
                connection.execution_options(is_durable=is_durable)
                connection.begin()
            yield connection
            connection.commit()

    def _take_turn(self, connection: Connection) -> float:
        """Returns the database's time."""
        try:
            now: float = connection.execute(_TAKE_TURN, {"number": TURN}).scalar_one()
        except ITS_OWN as error:
            if not error.connection_invalidated:
                raise
            connection.rollback()  # as in `_read`
            now = connection.execute(_TAKE_TURN, {"number": TURN}).scalar_one()
        return now

    def _alone(self, one: Waiting) -> list[Callable[[], None]]:
        """A verb in a transaction of its own, again and again while it collides with another server's."""
        for _ in range(TRIES):
            try:
                return self._transaction([one])
            except BaseException as error:
                failure = error
                if not (isinstance(error, DBAPIError) and _is_collision(error)):
                    break
        return _all_refused([one], failure)


def _is_collision(error: DBAPIError) -> bool:
    return getattr(error.orig, "sqlstate", None) in COLLISIONS


def _all_refused(running: list[Waiting], error: BaseException) -> list[Callable[[], None]]:
    refusal = _refusal(error)
    return [_ending(future.set_exception, refusal) for _, future, _ in running]


def _refusal(error: BaseException) -> Unavailable:
    """What callers are told. The reason is for the log: it may tell of other callers, and of the house."""
    reason = error.orig if isinstance(error, DBAPIError) else error
    log.error("the database: %s", " ".join(f"{type(reason).__name__}: {reason}".split()))
    refusal = Unavailable(REFUSAL)
    refusal.__cause__ = error
    return refusal


def _ending(settle: Callable[[Any], None], value: object) -> Callable[[], None]:
    return lambda: settle(value)
