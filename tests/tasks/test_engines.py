"""What a PostgreSQL must be before anything is promised on it, and what is said of one that is not."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from fluxserve.tasks import DatabaseError, open_database, open_postgresql
from tests.end_to_end.serving import until
from tests.postgresql import Postgres

NOWHERE = Path("/nowhere")


@contextmanager
def of_the_whole_server(postgresql: Postgres, setting: str, value: str) -> Iterator[None]:
    """A setting in the server's own file, for a while."""

    def told(address: str) -> str:
        with psycopg.connect(address) as connection:
            row = connection.execute(f"SHOW {setting}").fetchone()
        return str(row and row[0])

    address = postgresql.address_of("postgres")
    before = told(address)
    postgresql.run(f"ALTER SYSTEM SET {setting} = {value}")
    postgresql.run("SELECT pg_reload_conf()")
    until(lambda: told(address) == value, 30, f"{setting} was {value}")
    try:
        yield
    finally:
        postgresql.run(f"ALTER SYSTEM RESET {setting}")
        postgresql.run("SELECT pg_reload_conf()")
        until(lambda: told(address) == before, 30, f"{setting} was {before} again")


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes", "synchronous_commit"])
def test_a_database_that_forgets_what_it_acknowledged_is_refused(postgresql: Postgres, setting: str) -> None:
    with (
        of_the_whole_server(postgresql, setting, "off"),
        pytest.raises(DatabaseError, match=f"{setting} = off, .* can lose tasks that were accepted; allowed is on"),
    ):
        open_database(postgresql.fresh(), NOWHERE)


@pytest.mark.parametrize("whose", ["DATABASE {database}", "ROLE forgetful", "ROLE forgetful IN DATABASE {database}"])
def test_it_may_not_forget_for_one_database_or_one_user_either(postgresql: Postgres, whose: str) -> None:
    address = postgresql.fresh()
    database = address.split("?")[0].rsplit("/", 1)[1]
    postgresql.run("CREATE ROLE forgetful LOGIN SUPERUSER")
    postgresql.run(f"ALTER {whose.format(database=database)} SET synchronous_commit = off")
    try:
        with pytest.raises(DatabaseError, match="synchronous_commit = off, for this server, database or user"):
            open_database(address.replace("//postgres:", "//forgetful:"), NOWHERE)
    finally:
        postgresql.run("DROP ROLE forgetful")


def test_a_user_who_may_not_make_tables_is_told_so(postgresql: Postgres) -> None:
    address = postgresql.fresh(template="template1")
    postgresql.run("CREATE ROLE guest LOGIN")
    try:
        with pytest.raises(DatabaseError, match="can't be used: permission denied for schema public"):
            open_database(address.replace("//postgres:", "//guest:"), NOWHERE)
    finally:
        postgresql.run("DROP ROLE guest")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("postgresql://user:secret@127.0.0.1:1/name", "can't be used: .*127.0.0.1.*Connection refused"),
        ("postgresql://user:secret@127.0.0.1:port/name", "must look like postgresql://user:password@host/database"),
        ("secret", "must look like postgresql://user:password@host/database"),
        ("mysql://user:secret@host/name", "mysql is not supported"),
        ("postgresql://user:a@secret@host/name", "two @; one in a password is written %40"),
    ],
)
def test_a_database_that_cant_be_opened_is_named_without_its_password(address: str, message: str) -> None:
    with pytest.raises(DatabaseError, match=message) as refused:
        open_database(address, NOWHERE)

    assert "secret" not in str(refused.value)


def test_options_of_the_address_are_kept_and_ours_are_there_unless_it_says_otherwise(postgresql: Postgres) -> None:
    for options, expected in (("", ("20s", "10s")), ("&options=-c%20lock_timeout%3D3s", ("3s", "10s"))):
        engine = open_postgresql(postgresql.address_of("migrated") + options)
        with engine.connect() as connection:
            found = tuple(
                connection.exec_driver_sql(f"SHOW {name}").scalar_one()
                for name in ("lock_timeout", "idle_in_transaction_session_timeout")
            )
        engine.dispose()
        assert found == expected


START = """
import asyncio, sys
from pathlib import Path
from fluxserve.tasks import Accounts, open_database
from fluxserve.tasks.accounts import new_key

async def start():
    database = open_database(sys.argv[1], Path("/nowhere"))
    accounts = Accounts(database)
    first = await accounts.ensure_first(credits_usd=1, max_concurrent=16)
    print(await accounts.offer_first_key(first.id, new_key()))
    await accounts.set_first_key(first.id, "the same in the settings of all")
    database.close()

asyncio.run(start())
"""


def test_servers_that_start_together_on_an_empty_database_make_its_first_account_and_key_once(
    postgresql: Postgres,
) -> None:
    address = postgresql.fresh(template="template1")
    starts = [
        subprocess.Popen([sys.executable, "-c", START, address], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    said = [start.communicate(timeout=60) for start in starts]

    assert [start.returncode for start in starts] == [0, 0, 0], said
    assert [out.strip() for out, _ in said].count(b"True") <= 1  # a later one is given the settings' key by then
    with psycopg.connect(address) as connection:
        assert connection.execute("SELECT name, balance FROM accounts").fetchall() == [("first", 10_000_000)]
        assert connection.execute("SELECT count(*) FROM api_keys WHERE revoked_at IS NULL").fetchone() == (1,)
