"""A backup taken as docs/deploy.md says, of a database that is written to meanwhile, and a look at what is restored.

    python -m tests.tasks.restores --tasks 1000000 --database postgresql

A thousand tasks are ended by the queue's own verbs, and then copied by SQL until there are enough: their rows, and
those of their ledger and outputs.
"""

import argparse
import sqlite3
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, Engine, func, insert, literal, select, true, update

from fluxserve.domain.task import Completed, Errored, Submission
from fluxserve.tasks import Held, migrate, open_postgresql, open_sqlite, verbs
from fluxserve.tasks.accounts import _create
from fluxserve.tasks.audit import audit
from fluxserve.tasks.schema import accounts, ledger, outputs, tasks
from tests.postgresql import Postgres, postgres
from tests.tasks.conftest import PICTURE, PRICE, picture

T = TypeVar("T")

OF_THE_VERBS = 1000
POINTS = 10**15


@dataclass
class Report:
    tasks: int
    database: str
    back_up: float = 0.0  # seconds
    restore: float = 0.0
    audit: float = 0.0
    accepted: int = 0  # tasks that were submitted while the backup was taken
    restored: int = 0  # tasks
    findings: list[str] | None = None

    def __str__(self) -> str:
        return (
            f"{self.tasks} tasks on {self.database}: backed up in {self.back_up:.1f} s, while {self.accepted} more "
            f"were accepted; restored in {self.restore:.1f} s with {self.restored} tasks; the audit took "
            f"{self.audit:.1f} s and found {self.findings or 'nothing'}"
        )


def run_on_sqlite(folder: Path, count: int) -> Report:
    report, path, backup = Report(count, "SQLite"), folder / "queue.sqlite", folder / "backup.sqlite"
    engine = open_sqlite(path)
    migrate(engine)
    account_id = _fill(engine, count)

    def back_up() -> None:
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(backup)) as target:
            source.backup(target)

    report.back_up, report.accepted = _while_written_to(engine, account_id, back_up)
    engine.dispose()
    report.restore, restored = _timed(lambda: open_sqlite(backup))
    return _looked_at(report, restored)


def run_on_postgresql(folder: Path, count: int, server: Postgres) -> Report:
    report, dump = Report(count, "PostgreSQL"), folder / "backup.dump"
    address = server.fresh()
    engine = open_postgresql(address)
    account_id = _fill(engine, count)

    def back_up() -> None:
        server.program("pg_dump", "--format=custom", f"--file={dump}", address)

    report.back_up, report.accepted = _while_written_to(engine, account_id, back_up)
    engine.dispose()
    elsewhere = server.fresh()
    report.restore, _ = _timed(
        lambda: server.program("pg_restore", "--clean", "--if-exists", f"--dbname={elsewhere}", str(dump))
    )
    return _looked_at(report, open_postgresql(elsewhere))


def _looked_at(report: Report, engine: Engine) -> Report:
    migrate(engine)  # as a start does
    with engine.connect() as connection:
        report.audit, report.findings = _timed(lambda: audit(connection))
        report.restored = connection.execute(select(func.count()).select_from(tasks)).scalar_one()
    engine.dispose()
    return report


def _while_written_to(engine: Engine, account_id: str, back_up: Callable[[], None]) -> tuple[float, int]:
    """How long it took, and how many tasks were accepted meanwhile."""
    is_over, accepted = threading.Event(), 0

    def write() -> None:
        nonlocal accepted
        while not is_over.is_set():
            with engine.begin() as connection:
                _submit(connection, account_id)
            accepted += 1
            time.sleep(0.005)  # a backup of SQLite begins anew whenever another process has written

    writing = threading.Thread(target=write)
    writing.start()
    try:
        seconds, _ = _timed(back_up)
    finally:
        is_over.set()
        writing.join()
    return seconds, accepted


def _fill(engine: Engine, count: int) -> str:
    with engine.begin() as connection:
        account_id = _create(connection, 1.0, "rich", POINTS, 10**5).id
        for number in range(min(OF_THE_VERBS, count)):
            _submit(connection, account_id)
            (waiting,) = verbs.waiting(connection, 1)
            (task,) = verbs.claim(connection, 1.0, 30, [waiting.task_id])
            ending = Errored("broken", "it broke") if number % 10 == 0 else Completed((picture(uuid.uuid4().hex),))
            verbs.finish(connection, 1.0, Held(task.id, task.attempt), ending, 3)
        _copy(connection, count // OF_THE_VERBS - 1)
        balance, frozen = select(func.sum(ledger.c.balance_change)), select(func.sum(ledger.c.frozen_change))
        connection.execute(update(accounts).values(balance=balance.scalar_subquery(), frozen=frozen.scalar_subquery()))
    return account_id


def _copy(connection: Connection, times: int) -> None:
    """Every task so many times, under ids that begin with the number of the copy."""
    if not times:
        return
    copies = select(literal(1).label("number")).cte("copies", recursive=True)
    copies = copies.union_all(select(copies.c.number + 1).where(copies.c.number < times))
    digits = func.printf("%08x", copies.c.number)
    if connection.dialect.name == "postgresql":
        digits = func.lpad(func.to_hex(copies.c.number), 8, "0")
    for table, serial, ids in (
        (tasks, "number", ("id",)),
        (outputs, "", ("id", "task_id")),
        (ledger, "id", ("task_id",)),
    ):
        columns = [column for column in table.columns if column.name != serial]
        copied = [digits.concat(func.substr(each, 9)) if each.name in ids else each for each in columns]
        rows = select(*copied).select_from(table.join(copies, true()))
        if table is ledger:
            rows = rows.where(ledger.c.task_id.is_not(None))
        connection.execute(insert(table).from_select([column.name for column in columns], rows))


def _submit(connection: Connection, account_id: str) -> None:
    asked = Submission(account_id, {"model": "m"}, PICTURE)
    verbs.submit(connection, 1.0, asked, task_id=str(uuid.uuid4()), price=PRICE, deadline=1e12, most_staged=50)


def _timed(act: Callable[[], T]) -> tuple[float, T]:
    began = time.monotonic()
    result = act()
    return time.monotonic() - began, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if chosen.database == "sqlite":
            report = run_on_sqlite(Path(folder), chosen.tasks)
        else:
            with postgres() as server:
                report = run_on_postgresql(Path(folder), chosen.tasks, server)
    print(report)
    if report.findings:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
