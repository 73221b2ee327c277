"""The one way to the database: a verb is a function of a connection, run inside a transaction.

`Database.write` runs a verb and returns when its transaction is durable. All writes of a process go through one thread
that takes whatever verbs are waiting, gives each a savepoint, and commits them together: a durable commit is a disk
flush, and sixteen callers can share one. Nobody is answered before the commit. A verb that raises loses its own
savepoint and nothing else. Several servers on one PostgreSQL have such a thread each; rows are locked between them,
and a batch that two of them would wait for for ever (a deadlock, which PostgreSQL ends) is tried again verb by verb.

`Database.read` runs a function on a reading connection of its own, beside the writer.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError, OperationalError

from fluxserve.domain.errors import Unavailable

T = TypeVar("T")
Verb = Callable[[Connection], T]

MOST_TOGETHER = 64  # verbs in one commit
TRIES = 5  # of a verb that keeps meeting another server's
COLLISIONS = ("40P01", "40001")  # PostgreSQL's numbers for a deadlock and a serialization failure: nothing was done
_DATABASE_CLOCK = text("SELECT extract(epoch FROM clock_timestamp())::float8")


class Database:
    """Runs verbs on an engine of `fluxserve.tasks.engines`, from async code."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.is_shared = engine.dialect.name == "postgresql"  # with other servers, as a file never is
        self._waiting: queue.SimpleQueue[tuple[Verb[Any], Future[Any]] | None] = queue.SimpleQueue()
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="database-read")
        self._writer = threading.Thread(target=self._write_all, name="database-write", daemon=True)
        self._writer.start()

    def now(self, connection: Connection) -> float:
        """The time that leases and deadlines go by, in unix seconds: the database's own where servers share one."""
        if not self.is_shared:
            return time.time()
        seconds: float = connection.execute(_DATABASE_CLOCK).scalar_one()
        return seconds

    async def write(self, verb: Verb[T]) -> T:
        """Run `verb` in a transaction; when this returns, what it did survives a power loss."""
        return await asyncio.wrap_future(self.submit(verb))

    def submit(self, verb: Verb[T]) -> Future[T]:
        """The same for code that is not async."""
        future: Future[T] = Future()
        self._waiting.put((verb, future))
        return future

    async def read(self, look: Verb[T]) -> T:
        """Run `look` on what is committed."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, look)

    def close(self) -> None:
        """Finish what is waiting, then let go of the files."""
        self._waiting.put(None)
        self._writer.join()
        self._readers.shutdown()
        self.engine.dispose()

    def _read(self, look: Verb[T]) -> T:
        with self.engine.connect().execution_options(reads_only=True) as connection:
            return look(connection)

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

    def _commit_together(self, batch: list[tuple[Verb[Any], Future[Any]]]) -> None:
        running = [(verb, future) for verb, future in batch if future.set_running_or_notify_cancel()]
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

    def _transaction(self, running: list[tuple[Verb[Any], Future[Any]]]) -> list[Callable[[], None]]:
        """Run them and commit. Returns how each future is to be ended."""
        endings: list[Callable[[], None]] = []
        with self.engine.begin() as connection:
            for verb, future in running:
                try:
                    with connection.begin_nested():
                        result = verb(connection)
                except OperationalError:
                    raise  # the database itself: nothing of this batch may be believed
                except BaseException as error:
                    endings.append(_ending(future.set_exception, error))
                else:
                    endings.append(_ending(future.set_result, result))
        return endings

    def _alone(self, one: tuple[Verb[Any], Future[Any]]) -> list[Callable[[], None]]:
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


def _all_refused(running: list[tuple[Verb[Any], Future[Any]]], error: BaseException) -> list[Callable[[], None]]:
    refusal = Unavailable(f"the database did not take it: {error}")
    refusal.__cause__ = error
    return [_ending(future.set_exception, refusal) for _, future in running]


def _ending(settle: Callable[[Any], None], value: object) -> Callable[[], None]:
    return lambda: settle(value)
