"""Accounts and keys."""

import sqlite3
import zlib
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from fluxserve.domain.errors import Unauthorized
from fluxserve.tasks import Accounts, Database
from fluxserve.tasks.accounts import KEY_PREFIX, new_key

pytestmark = pytest.mark.anyio


@pytest.fixture
def accounts(engine: Engine) -> Iterator[Accounts]:
    database = Database(engine)
    yield Accounts(database)
    database.close()


async def test_the_first_account_is_made_once_with_its_credits(accounts: Accounts) -> None:
    first = await accounts.ensure_first(credits_usd=1000, max_concurrent=16)
    again = await accounts.ensure_first(credits_usd=5, max_concurrent=3)

    assert first == again
    assert (first.balance, first.frozen, first.max_concurrent) == (10_000_000_000, 0, 16)
    assert await accounts.get(first.id) == first


async def test_a_key_opens_its_account_and_no_other_key_does(accounts: Accounts) -> None:
    first = await accounts.ensure_first(credits_usd=1, max_concurrent=1)
    await accounts.set_first_key(first.id, "my key")

    assert await accounts.authenticate("my key") == first.id
    for wrong in ("my kez", "", "my key ", "MY KEY"):
        with pytest.raises(Unauthorized):
            await accounts.authenticate(wrong)


async def test_another_first_key_takes_the_place_of_the_last(accounts: Accounts) -> None:
    first = await accounts.ensure_first(credits_usd=1, max_concurrent=1)
    for key in ("old", "new", "new"):
        await accounts.set_first_key(first.id, key)

    assert await accounts.authenticate("new") == first.id
    with pytest.raises(Unauthorized):
        await accounts.authenticate("old")

    await accounts.set_first_key(first.id, "old")
    assert await accounts.authenticate("old") == first.id


async def test_the_database_holds_no_key(accounts: Accounts, engine: Engine) -> None:
    first = await accounts.ensure_first(credits_usd=1, max_concurrent=1)
    key = new_key()
    await accounts.set_first_key(first.id, key)

    with engine.connect() as connection:
        raw = connection.connection.driver_connection
        assert isinstance(raw, sqlite3.Connection)
        dump = "\n".join(raw.iterdump())
    assert key not in dump
    assert key.removeprefix(KEY_PREFIX)[:20] not in dump


def test_a_new_key_has_256_random_bits_and_a_checksum() -> None:
    keys = {new_key() for _ in range(100)}

    assert len(keys) == 100
    for key in keys:
        secret, checksum = key.removeprefix(KEY_PREFIX)[:64], key[-8:]
        assert len(bytes.fromhex(secret)) == 32
        assert int(checksum, 16) == zlib.crc32(secret.encode())
