"""Power losses under the production code's own submits, and what a reopened database then holds.

    python -m tests.tasks.power_loss --crashes 1000 --seed 1

The production verbs run on the production engine, through a DB-API driver (`Driver`) over APSW whose VFS (`Watched`)
writes down every write, truncate, sync and delete on the database, its WAL and its journal. From that log the disk of
any moment can be made (`Disk`): what was synced is there; of what was not, each write is there, or not, or torn at 512
bytes with some sectors kept, some old and some garbage; a file that was made or deleted but not synced may be there or
not. A crash is such an image, opened by the sqlite3 of the standard library.

The SQLite that writes is APSW's own copy, for a VFS must be in the same library; the one that reads is production's.
"""

import argparse
import asyncio
import json
import random
import sqlite3
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import apsw
from sqlalchemy import Connection

from fluxserve.domain.completion import NewCompletion, Usage, Used
from fluxserve.domain.generation import Generation, TextToImage
from fluxserve.domain.task import Completed, Output, Submission, Task
from fluxserve.tasks import Accounts, Completions, Database, Held, migrate, open_sqlite, verbs
from fluxserve.tasks.audit import audit

SECTOR = 512
NAME = "fluxserve.sqlite"
START = 1_000_000.0  # the time at which a history begins
WAL = f"{NAME}-wal"
NEARLY_FULL = 900 * 4120  # bytes: SQLite checkpoints a WAL of a thousand pages


# ---------------------------------------------------------------- what is written down


@dataclass(frozen=True, slots=True)
class Create:
    """`syncs_folder`: SQLite's own VFS syncs the folder when it first syncs this file, a journal or a WAL."""

    file: str
    syncs_folder: bool


@dataclass(frozen=True, slots=True)
class Write:
    file: str
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    file: str
    size: int


@dataclass(frozen=True, slots=True)
class Sync:
    file: str


@dataclass(frozen=True, slots=True)
class Delete:
    """`is_durable`: SQLite asked for the folder to be synced too."""

    file: str
    is_durable: bool


@dataclass(frozen=True, slots=True)
class Promise:
    """The commit returned: from here on the task or completion must be there, and be completed if it says so."""

    id: str
    is_completed: bool = False


Step = Create | Write | Truncate | Sync | Delete | Promise


class Watched(apsw.VFS):
    """The system's files, with everything that changes them written down. Syncs are noted, not done."""

    def __init__(self, log: list[Step]) -> None:
        self.name = f"watched-{uuid.uuid4()}"
        self.log = log
        super().__init__(self.name, "")

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        if name is None:  # a temporary file, whose loss is nobody's
            return apsw.VFSFile("", name, flags)
        return WatchedFile(self.log, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        super().xDelete(filename, syncdir)
        self.log.append(Delete(Path(filename).name, syncdir))


class WatchedFile(apsw.VFSFile):
    def __init__(self, log: list[Step], name: Any, flags: list[int]) -> None:
        path = Path(name.filename() if isinstance(name, apsw.URIFilename) else name)
        is_new = not path.exists()
        super().__init__("", name, flags)
        self._log, self._file = log, path.name
        if is_new:
            journals = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL
            log.append(Create(self._file, syncs_folder=bool(flags[0] & journals)))

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        super().xWrite(data, offset)
        self._log.append(Write(self._file, offset, bytes(data)))

    def xTruncate(self, size: int) -> None:  # noqa: N802
        super().xTruncate(size)
        self._log.append(Truncate(self._file, size))

    def xSync(self, flags: int) -> None:  # noqa: N802, ARG002
        self._log.append(Sync(self._file))


# ---------------------------------------------------------------- APSW as SQLAlchemy wants a driver


class Driver:
    """As much of the DB-API as SQLAlchemy's dialect for `sqlite3` uses, over APSW and a VFS."""

    paramstyle = "qmark"
    sqlite_version_info = tuple(int(part) for part in apsw.sqlite_lib_version().split("."))
    Binary = bytes
    Error = apsw.Error
    IntegrityError = apsw.ConstraintError
    OperationalError = apsw.BusyError
    ProgrammingError = apsw.MisuseError

    def __init__(self, vfs: Watched) -> None:
        self._vfs = vfs

    def connect(self, path: str, *, timeout: float, check_same_thread: bool) -> "DriverConnection":  # noqa: ARG002
        connection = apsw.Connection(path, vfs=self._vfs.name)
        connection.set_busy_timeout(int(timeout * 1000))
        return DriverConnection(connection)


class DriverConnection:
    isolation_level: str | None = None

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def cursor(self) -> "DriverCursor":
        return DriverCursor(self._connection)

    def create_function(self, name: str, arguments: int, function: Callable[..., Any], **options: Any) -> None:
        self._connection.create_scalar_function(name, function, arguments, **options)

    def commit(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("COMMIT")

    def rollback(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def close(self) -> None:
        self._connection.close()


class DriverCursor:
    arraysize = 1

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._rows: list[Any] = []
        self.description: tuple[Any, ...] | None = None
        self.rowcount = -1
        self.lastrowid = 0

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> None:
        before = self._connection.total_changes()
        cursor = self._connection.cursor()
        cursor.exec_trace = self._note_columns
        self._rows = list(cursor.execute(statement, tuple(parameters)))
        self.rowcount = self._connection.changes() if self._connection.total_changes() > before else 0
        self.lastrowid = self._connection.last_insert_rowid()

    def executemany(self, statement: str, all_parameters: Sequence[Sequence[Any]]) -> None:
        for parameters in all_parameters:
            self.execute(statement, parameters)
        self.rowcount = len(all_parameters)

    def _note_columns(self, cursor: apsw.Cursor, _statement: str, _bindings: Any) -> bool:
        self.description = tuple((column[0], *[None] * 6) for column in cursor.get_description()) or None
        return True

    def fetchone(self) -> Any:
        return self._rows.pop(0) if self._rows else None

    def fetchmany(self, size: int = 1) -> list[Any]:
        rows, self._rows = self._rows[:size], self._rows[size:]
        return rows

    def fetchall(self) -> list[Any]:
        rows, self._rows = self._rows, []
        return rows

    def close(self) -> None:
        self._rows = []


# ---------------------------------------------------------------- what happens before the crash


def record(folder: Path, seed: int, synchronous: str, *, until_checkpoint: bool) -> tuple[list[Step], int]:
    """A history of submits, alone and many to a commit, among claims, finishes, completions and restarts, on its way to
    the disk.

    Returns it with the place from which crashes are worth making. `until_checkpoint` first fills the WAL, so that
    SQLite checkpoints it in the midst of the history; else the restarts do.
    """
    chance = random.Random(seed)
    log: list[Step] = []
    live = _Live(folder / NAME, log, synchronous, chance)
    if until_checkpoint:
        while (
            max((step.offset for step in log if isinstance(step, Write) and step.file == WAL), default=0) < NEARLY_FULL
        ):
            live.submit(1)
    first = len(log) if until_checkpoint else 0
    for _ in range(40):
        match chance.random():
            case draw if draw < 0.4:
                live.submit(1)
            case draw if draw < 0.5:
                live.relay()
            case draw if draw < 0.7:
                live.submit(chance.randint(2, 12))
            case draw if draw < 0.9 or until_checkpoint:
                live.draw(chance.randint(1, 4))
            case _:
                live.restart()
    live.close()
    return log, first


class _Live:
    """The production queue on a watched disk."""

    def __init__(self, path: Path, log: list[Step], synchronous: str, chance: random.Random) -> None:
        self._path = path
        self._log = log
        self._synchronous = synchronous
        self._chance = chance
        self._driver = Driver(Watched(log))
        self._now = START
        self._open()

    def _open(self) -> None:
        self._engine = open_sqlite(self._path, synchronous=self._synchronous, driver=self._driver)
        migrate(self._engine)
        self._database = Database(self._engine)
        accounts = Accounts(self._database, clock=lambda _: self._now)
        self._account = asyncio.run(accounts.ensure_first(credits_usd=1000, max_concurrent=16)).id

    def close(self) -> None:
        self._database.close()

    def restart(self) -> None:
        self.close()
        self._open()

    def submit(self, together: int) -> None:
        """So many tasks in one commit."""
        self._commit([self._submission() for _ in range(together)])

    def draw(self, most: int) -> None:
        """Claim some tasks in one commit, finish them in another."""

        def claim(connection: Connection) -> list[Task]:
            waiting = sorted(verbs.waiting(connection, most), key=lambda task: task.number)
            return verbs.claim(connection, self._now, 30, [task.task_id for task in waiting])

        (claimed,) = self._commit([(claim, None)])
        self._commit([self._finish(task) for task in claimed])

    def relay(self) -> None:
        """A completion: held for without a flush, so nothing is promised; mostly ended with one."""
        completions = Completions(self._database, clock=lambda _: self._now)
        held = asyncio.run(completions.hold(NewCompletion(self._account, "a text model", 30_000)))
        if self._chance.random() < 0.8:
            used = Used(Usage(3, 4), 20_000, b"an answer " * self._chance.randint(1, 200))
            asyncio.run(completions.finish(held.id, used))
            self._log.append(Promise(held.id, is_completed=True))

    def _submission(self) -> tuple[Callable[[Connection], Any], Promise]:
        task_id = str(uuid.UUID(int=self._chance.getrandbits(128)))
        prompt = "a cat " * self._chance.randint(1, 200)
        generation = Generation("flux1-schnell", TextToImage(prompt), 256, 256, 1, None, seed=1)

        def submit(connection: Connection) -> Task:
            return verbs.submit(
                connection,
                self._now,
                Submission(self._account, {"prompt": prompt}, generation),
                task_id=task_id,
                price=20_000,
                deadline=self._now + 1e6,
                most_staged=1_000_000,
            )

        return submit, Promise(task_id)

    def _finish(self, task: Task) -> tuple[Callable[[Connection], Any], Promise]:
        picture = Output(
            f"{self._chance.getrandbits(128):032x}", f"{task.id}-1-0.png", "image/png", 9, 256, 256, 1, self._now + 9
        )

        def finish(connection: Connection) -> Task | None:
            return verbs.finish(connection, self._now, Held(task.id, task.attempt), Completed((picture,)), 3)

        return finish, Promise(task.id, is_completed=True)

    def _commit(self, changes: list[tuple[Callable[[Connection], Any], Promise | None]]) -> list[Any]:
        """All in one commit: they gather behind one that holds the writer up. Promises are noted as it makes them."""
        self._now += 1
        begun, gathered = threading.Event(), threading.Event()

        def hold_up(_connection: Connection) -> None:
            begun.set()
            gathered.wait()

        self._database.submit(hold_up)
        begun.wait()
        futures = []
        for verb, promise in changes:
            future = self._database.submit(verb)
            if promise is not None:
                future.add_done_callback(partial(self._note, promise))
            futures.append(future)
        gathered.set()
        return [future.result() for future in futures]

    def _note(self, promise: Promise, done: Future[Any]) -> None:
        if done.exception() is None:
            self._log.append(promise)


# ---------------------------------------------------------------- the disk at a moment


@dataclass
class _File:
    """`durable` and `unsynced` are its contents; `is_entered` once the folder's entry of it is on the disk.

    `ghost` is what was there before, and comes back if the entry's change is lost.
    """

    durable: bytearray = field(default_factory=bytearray)
    unsynced: list[Write | Truncate] = field(default_factory=list)
    exists: bool = True
    is_entered: bool = False
    syncs_folder: bool = False
    ghost: bytes | None = None


class Disk:
    """Follows a history step by step."""

    def __init__(self) -> None:
        self._files: dict[str, _File] = {}

    def follow(self, step: Write | Truncate | Create | Sync | Delete) -> None:
        match step:
            case Create(name, syncs_folder):
                before = self._files.get(name, _File())
                self._files[name] = _File(syncs_folder=syncs_folder, ghost=before.ghost)
            case Write() | Truncate():
                self._files[step.file].unsynced.append(step)
            case Sync(name):
                file = self._files[name]
                _play_all(file.durable, file.unsynced)
                file.unsynced = []
                if file.syncs_folder:
                    self._sync_folder()
                    file.syncs_folder = False
            case Delete(name, is_durable):
                before = self._files[name]
                ghost = bytes(before.durable) if before.is_entered else before.ghost
                self._files[name] = _File(exists=False, ghost=ghost)
                if is_durable:
                    self._sync_folder()

    def _sync_folder(self) -> None:
        for file in self._files.values():
            file.is_entered, file.ghost = True, None

    def after_power_loss(self, chance: random.Random) -> dict[str, bytes]:
        """The files as a new start would find them."""
        mercy = chance.choice((0.0, 0.2, 0.5, 0.8, 1.0))  # the share of unsynced things that reached the disk
        found = {}
        for name, file in self._files.items():
            contents = _survivor(file, mercy, chance)
            if contents is not None:
                found[name] = contents
        return found


def _survivor(file: _File, mercy: float, chance: random.Random) -> bytes | None:
    if not file.is_entered and chance.random() >= mercy:
        return file.ghost
    if not file.exists:
        return None
    contents = bytearray(file.durable)
    for change in file.unsynced:
        fate = chance.random()
        if fate < mercy * 0.7:
            _play(contents, change)
        elif fate < mercy:
            for part in _torn(change, chance):
                _play(contents, part)
    return bytes(contents)


def _torn(change: Write | Truncate, chance: random.Random) -> Iterator[Write | Truncate]:
    """The sectors of a write that reached the disk, a few of them as garbage."""
    if isinstance(change, Truncate):
        return
    begin, end = change.offset, change.offset + len(change.data)
    while begin < end:
        border = min(end, (begin // SECTOR + 1) * SECTOR)
        fate = chance.random()
        if fate < 0.5:
            yield Write(change.file, begin, change.data[begin - change.offset : border - change.offset])
        elif fate < 0.55:
            yield Write(change.file, begin, chance.randbytes(border - begin))
        begin = border


def _play_all(contents: bytearray, changes: list[Write | Truncate]) -> None:
    for change in changes:
        _play(contents, change)


def _play(contents: bytearray, change: Write | Truncate) -> None:
    if isinstance(change, Truncate):
        del contents[change.size :]
        contents.extend(bytes(change.size - len(contents)))
        return
    contents.extend(bytes(max(0, change.offset - len(contents))))
    contents[change.offset : change.offset + len(change.data)] = change.data


# ---------------------------------------------------------------- the crashes


@dataclass
class Report:
    """The figures of a run; `lost` and `faults` should be empty when commits are durable."""

    crashes: int
    seed: int
    synchronous: str
    histories: int = 0
    steps: int = 0  # writes, syncs and so on in all histories; with enough crashes there is one before each
    promised: int = 0  # accepted tasks looked for, summed over all crashes
    crashes_that_lost: int = 0
    lost: list[str] = field(default_factory=list)  # accepted tasks (or their endings) that were not there
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        return "\n".join(
            (
                f"synchronous={self.synchronous}, seed {self.seed}: {self.crashes} crashes in {self.seconds:.0f} s, at "
                f"{self.steps} steps of {self.histories} histories, SQLite {apsw.sqlite_lib_version()}; "
                f"reopened by SQLite {sqlite3.sqlite_version}",
                f"accepted tasks looked for {self.promised}: lost {len(self.lost)}, "
                f"by {self.crashes_that_lost} crashes",
                f"other faults {len(self.faults)}",
                *self.faults[:20],
            )
        )


def run(folder: Path, crashes: int, seed: int, synchronous: str = "FULL") -> Report:
    """Histories and their crashes, one before each step, until there are enough; every fourth one meets a checkpoint.

    When the last history has more steps than crashes are left, they are spread over it.
    """
    began = time.monotonic()
    report = Report(crashes, seed, synchronous)
    left = crashes
    while left:
        number = report.histories
        report.histories += 1
        live = folder / f"history-{number}"
        log, first = record(live, seed + number, synchronous, until_checkpoint=number % 4 == 1)
        moments = [at for at, step in enumerate(log) if at >= first and not isinstance(step, Promise)]
        if len(moments) > left:
            moments = sorted(random.Random(f"{seed} {number}").sample(moments, left))
        report.steps += len(moments)
        _crash_at(log, set(moments), folder / "image", report, random.Random(f"{seed} {number} image"))
        left -= len(moments)
    report.seconds = time.monotonic() - began
    return report


def _crash_at(log: list[Step], moments: set[int], folder: Path, report: Report, chance: random.Random) -> None:
    """`moments` are places in the log: the crash strikes while that step is under way."""
    disk = Disk()
    promises: dict[str, Promise] = {}
    for at, step in enumerate(log):
        if isinstance(step, Promise):
            promises[step.id] = step
            continue
        is_sync = isinstance(step, Sync | Delete)
        if not is_sync:
            disk.follow(step)
        if at in moments:
            _write(disk.after_power_loss(chance), folder)
            _examine(folder / NAME, promises, f"seed {report.seed}, history {report.histories}, step {at}", report)
        if is_sync:
            disk.follow(step)


def _write(files: dict[str, bytes], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for name, contents in files.items():
        (folder / name).write_bytes(contents)


def _examine(path: Path, promises: dict[str, Promise], where: str, report: Report) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA synchronous=OFF")  # of the recovery, which no second crash interrupts
        (integrity,) = database.execute("PRAGMA integrity_check").fetchone()
        if integrity != "ok":
            report.faults.append(f"{where}: integrity_check: {integrity}")
            return
        last = "SELECT 1 FROM sqlite_master WHERE name = 'completions_hold_stays'"  # thing that the migrations make
        is_set_up = database.execute(last).fetchone()
        both = "SELECT id, state FROM tasks UNION ALL SELECT id, state FROM completions"
        holds_of_both = "SELECT COALESCE(task_id, completion_id), 1 FROM ledger WHERE phase = 'hold'"
        states: dict[str, str] = dict(database.execute(both)) if is_set_up else {}
        holds = dict(database.execute(holds_of_both)) if is_set_up else {}
    lost = [
        f"{where}: {promise}"
        for promise in promises.values()
        if promise.id not in states
        or promise.id not in holds
        or (promise.is_completed and states[promise.id] != "completed")
    ]
    report.promised += len(promises)
    report.lost += lost
    report.crashes_that_lost += bool(lost)
    if is_set_up:
        engine = open_sqlite(path)
        with engine.connect() as connection:
            report.faults += [f"{where}: {finding}" for finding in audit(connection)]
        engine.dispose()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.tasks.power_loss", description="Pull the plug and look.")
    parser.add_argument("--crashes", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--synchronous", choices=("FULL", "NORMAL"), default="FULL", help="NORMAL shows what it loses")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = run(Path(folder), chosen.crashes, chosen.seed, chosen.synchronous)
    print(report)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(asdict(report) | {"lost": len(report.lost)}, indent=1) + "\n")
    if report.lost or report.faults:
        sys.exit(1)


if __name__ == "__main__":
    main()
