"""How the two databases are opened, each as everything here wants it: durable commits, and writers that wait for each
other instead of failing.

SQLite, a file of one server, is what there is without any setting. PostgreSQL lets several servers share one queue.
"""

from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

BUSY_SECONDS = 10
FROZEN_SECONDS = 10  # within a transaction, after which PostgreSQL ends it: the others wait for its locks
LOCK_SECONDS = 2 * FROZEN_SECONDS
# A host that vanishes without a word is noticed after some 20 seconds; the system's own patience is two hours.
KEEPALIVES: dict[str, Any] = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 20_000,
}
# What an acknowledged task's survival hangs on, and the values that keep it.
SAFE: dict[str, tuple[str, ...]] = {
    "fsync": ("on",),
    "full_page_writes": ("on",),
    "synchronous_commit": ("on", "local", "remote_write", "remote_apply"),
}


class DatabaseError(Exception):
    """The database can't be used; the message says why and what to do."""


def open_sqlite(path: Path, *, synchronous: str = "FULL", driver: Any = None) -> Engine:
    """SQLite at `path`, in WAL mode.

    `synchronous` and `driver` (a DB-API module in place of `sqlite3`) exist for the power-loss test, which watches
    every write on its way to the disk and must be able to show what NORMAL would lose.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
        module=driver,
        hide_parameters=True,  # they hold callers' secrets, and errors are logged
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
        options = connection.get_execution_options()
        if options.get("reads_only", False):
            connection.exec_driver_sql("BEGIN")
            return
        wanted = synchronous if options.get("is_durable", True) else "NORMAL"
        if connection.info.get("synchronous", synchronous) != wanted:  # it can't be changed within a transaction
            cursor = connection.connection.cursor()
            cursor.execute(f"PRAGMA synchronous={wanted}")
            cursor.close()
            connection.info["synchronous"] = wanted
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def open_postgresql(address: str) -> Engine:
    """PostgreSQL at ``postgresql://user:password@host/database``. Connects at the first use.

    READ COMMITTED: a statement that waited for another server's row sees what that server made of it.
    """
    try:
        url = make_url(address)
    except (ArgumentError, ValueError):
        raise DatabaseError("the database's address must look like postgresql://user:password@host/database") from None
    if url.get_backend_name() != "postgresql":
        raise DatabaseError(f"{url.drivername} is not supported; the database's address begins with postgresql://")
    if "@" in (url.host or ""):  # else the host, with the end of the password, would be in a message
        raise DatabaseError(
            "the database's address has two @; one in a password is written %40, as / is %2F, and : %3A"
        )
    options = (
        f"-c lock_timeout={LOCK_SECONDS}s",
        f"-c idle_in_transaction_session_timeout={FROZEN_SECONDS}s",
        url.query.get("options", ""),
    )
    return create_engine(
        url.set(drivername="postgresql+psycopg"),
        hide_parameters=True,
        isolation_level="READ COMMITTED",
        connect_args={"connect_timeout": BUSY_SECONDS, "options": " ".join(map(str, options)), **KEEPALIVES},
    )


def refuse_unsafe(engine: Engine) -> None:
    """Raises `DatabaseError` if the database is set up to forget what it acknowledged, or can't be written."""
    if engine.dialect.name != "postgresql":
        return
    with engine.connect() as connection:
        values = {name: connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in SAFE}
        is_standby = connection.exec_driver_sql("SELECT pg_is_in_recovery()").scalar_one()
    if is_standby:
        raise DatabaseError("the database is a standby that can only be read; fluxserve needs the primary")
    for name, value in values.items():
        if value not in SAFE[name]:
            raise DatabaseError(
                f"the database has {name} = {value}, for this server, database or user, with which it can lose tasks "
                f"that were accepted; allowed is {' or '.join(SAFE[name])}"
            )
