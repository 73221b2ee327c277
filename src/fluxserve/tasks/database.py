"""The one way to the database: a verb is a function of a connection, run inside a transaction.

`Database.write` runs a verb and returns when its transaction is durable. All writes of a process go through one thread
that takes whatever verbs are waiting, gives each a savepoint, and commits them together: with `synchronous=FULL` a
commit is a disk flush, and sixteen callers can share one. Nobody is answered before the commit. A verb that raises
loses its own savepoint and nothing else.

`Database.read` runs a function on a reading connection of its own, beside the writer (WAL).
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import OperationalError

from fluxserve.domain.errors import Unavailable

T = TypeVar("T")
Verb = Callable[[Connection], T]

MOST_TOGETHER = 64  # verbs in one commit
BUSY_SECONDS = 10


def open_engine(path: Path, *, synchronous: str = "FULL", driver: Any = None) -> Engine:
    """SQLite at `path`, as everything here wants it: WAL, durable commits, writers that queue instead of failing.

    `synchronous` and `driver` (a DB-API module in place of `sqlite3`) exist for the power-loss test, which watches
    every write on its way to the disk and must be able to show what NORMAL would lose.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
        module=driver,
    )

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver starts no transaction by itself; `begin` below does
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute(f"PRAGMA synchronous={synchronous}")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that reads first and writes then can't be upgraded once another has written: take the
        # write lock at its beginning. Readers don't need it.
        reads_only = connection.get_execution_options().get("reads_only", False)
        connection.exec_driver_sql("BEGIN" if reads_only else "BEGIN IMMEDIATE")

    return engine


class Database:
    """Runs verbs on a SQLite engine, from async code."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: queue.SimpleQueue[tuple[Verb[Any], Future[Any]] | None] = queue.SimpleQueue()
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="database-read")
        self._writer = threading.Thread(target=self._write_all, name="database-write", daemon=True)
        self._writer.start()

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
        self._engine.dispose()

    def _read(self, look: Verb[T]) -> T:
        with self._engine.connect().execution_options(reads_only=True) as connection:
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
        endings: list[Callable[[], None]] = []
        try:
            with self._engine.begin() as connection:
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
        except BaseException as error:
            refusal = Unavailable(f"the database did not take it: {error}")
            refusal.__cause__ = error
            endings = [_ending(future.set_exception, refusal) for _, future in running]
        for end in endings:
            end()


def _ending(settle: Callable[[Any], None], value: object) -> Callable[[], None]:
    return lambda: settle(value)
