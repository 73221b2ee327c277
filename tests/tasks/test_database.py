"""Writes share commits and nothing else; readers see only what is committed."""

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, event, text

from fluxserve.domain.errors import InvalidInput, Unavailable
from fluxserve.tasks import Database, open_sqlite
from tests.tasks.power_loss import NAME, WAL, Driver, Step, Sync, Watched

pytestmark = pytest.mark.anyio


@pytest.fixture
def plain(tmp_path: Path) -> Engine:
    engine = open_sqlite(tmp_path / "plain.sqlite")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE words (word TEXT UNIQUE)")
    return engine


@pytest.fixture
def database(plain: Engine) -> Iterator[Database]:
    database = Database(plain)
    yield database
    database.close()


def add(connection: Connection, word: str) -> str:
    connection.execute(text("INSERT INTO words VALUES (:word)"), {"word": word})
    return word


def words(connection: Connection) -> list[str]:
    return [row.word for row in connection.execute(text("SELECT word FROM words ORDER BY rowid"))]


async def test_a_write_returns_what_its_verb_returned_and_can_be_read(database: Database) -> None:
    assert await database.write(lambda connection: add(connection, "one")) == "one"
    assert await database.read(words) == ["one"]


async def test_a_write_is_in_the_file_when_it_returns(database: Database, plain: Engine) -> None:
    await database.write(lambda connection: add(connection, "one"))

    with sqlite3.connect(str(plain.url.database).removeprefix("file:").split("?")[0]) as other:
        assert other.execute("SELECT word FROM words").fetchall() == [("one",)]
    other.close()


async def test_what_is_marked_is_in_the_file_but_waits_for_no_flush(tmp_path: Path) -> None:
    log: list[Step] = []
    driver = Driver(Watched(log))
    database = Database(open_sqlite(tmp_path / NAME, driver=driver))
    await database.write(lambda connection: connection.exec_driver_sql("CREATE TABLE words (word TEXT UNIQUE)").close())
    flushes = {}
    for name, does in (("mark", database.mark), ("write", database.write), ("mark again", database.mark)):
        before = log.count(Sync(WAL))
        await does(_adder(name))
        flushes[name] = log.count(Sync(WAL)) - before
        assert name in await database.read(words)
    await asyncio.gather(database.mark(_adder("together")), database.write(_adder("both")))

    assert flushes == {"mark": 0, "write": 1, "mark again": 0}
    database.close()


def test_verbs_that_wait_together_share_one_commit(database: Database, plain: Engine) -> None:
    commits = 0

    @event.listens_for(plain, "commit")
    def count(_connection: Connection) -> None:
        nonlocal commits
        commits += 1

    _hold_the_writer(database, lambda: [database.submit(_adder(f"word {number}")) for number in range(20)])

    assert commits == 2  # the one that held the writer, and one for all the others
    with plain.connect() as connection:
        assert len(words(connection)) == 20


def test_a_verb_that_raises_loses_its_own_changes_and_no_others(database: Database, plain: Engine) -> None:
    def break_after_writing(connection: Connection) -> None:
        add(connection, "lost")
        raise InvalidInput("field", 1, "no")

    good, bad, also_good = _hold_the_writer(
        database,
        lambda: [database.submit(_adder("good")), database.submit(break_after_writing), database.submit(_adder("too"))],
    )

    assert (good.result(), also_good.result()) == ("good", "too")
    with pytest.raises(InvalidInput):
        bad.result()
    with plain.connect() as connection:
        assert words(connection) == ["good", "too"]


def test_nobody_is_told_of_success_when_the_commit_fails(database: Database, plain: Engine) -> None:
    def broken(_connection: Connection) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    event.listen(plain, "commit", broken, once=True)
    futures = [database.submit(_adder("one"))]

    with pytest.raises(Unavailable):
        futures[0].result()
    assert database.submit(words).result() == []


def test_a_fault_of_the_database_in_one_verb_fails_all_that_share_its_commit(database: Database) -> None:
    first, second = _hold_the_writer(
        database,
        lambda: [
            database.submit(_adder("one")),
            database.submit(lambda connection: connection.exec_driver_sql("SELECT * FROM nothing")),
        ],
    )

    for future in (first, second):
        with pytest.raises(Unavailable):
            future.result()
    assert database.submit(words).result() == []


def test_closing_finishes_what_was_submitted(plain: Engine) -> None:
    database = Database(plain)
    futures = [database.submit(_adder(f"word {number}")) for number in range(200)]

    database.close()

    assert all(future.done() and future.exception() is None for future in futures)


def _adder(word: str):  # type: ignore[no-untyped-def]
    return lambda connection: add(connection, word)


def _hold_the_writer(database: Database, submit_all) -> list[Future]:  # type: ignore[no-untyped-def, type-arg]
    """Submit several verbs while the writer is busy with one, so that they wait together; returns when all are done."""
    entered, may_go = threading.Event(), threading.Event()

    def occupy(_connection: Connection) -> None:
        entered.set()
        may_go.wait(10)

    held = database.submit(occupy)
    assert entered.wait(10)
    futures = submit_all()
    may_go.set()
    held.result(10)
    for future in futures:
        future.exception(10)
    return list(futures)
