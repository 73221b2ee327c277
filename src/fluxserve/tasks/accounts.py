"""Accounts and their keys.

A key is 256 random bits with a prefix by which leaked ones are found and a checksum by which a mistyped one is. Only
its hash is stored; it is found by its id, which is another hash, and compared in constant time.
"""

import hashlib
import hmac
import secrets
import time
import uuid
import zlib
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, insert, select, update

from fluxserve.domain.credits import points
from fluxserve.domain.errors import Unauthorized
from fluxserve.tasks import ledger
from fluxserve.tasks.database import Database
from fluxserve.tasks.queue import Clock
from fluxserve.tasks.schema import accounts, api_keys

KEY_PREFIX = "fxs_"
FIRST_ACCOUNT = "first"

# Built once: building a statement costs more than running it, and this one runs for every request.
_KEY = select(api_keys.c.account_id, api_keys.c.key_hash).where(
    api_keys.c.id == bindparam("of_key"), api_keys.c.revoked_at.is_(None)
)


@dataclass(frozen=True, slots=True)
class Account:
    """Points: `balance` can still be spent, `frozen` is held for open tasks."""

    id: str
    name: str
    balance: int
    frozen: int
    max_concurrent: int


def new_key() -> str:
    secret = secrets.token_hex(32)
    return f"{KEY_PREFIX}{secret}{zlib.crc32(secret.encode()):08x}"


def key_id(key: str) -> str:
    """What a key is found by: it tells nothing of the key."""
    return hashlib.sha256(b"id of " + key.encode()).hexdigest()[:16]


def key_hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


class Accounts:
    """Who may call, and with what."""

    def __init__(self, database: Database, clock: Clock = time.time) -> None:
        self._database = database
        self._clock = clock

    async def ensure_first(self, *, credits_usd: float, max_concurrent: int) -> Account:
        """The first account, made with its credits if this database has none."""
        return await self._database.write(
            lambda connection: _ensure_first(connection, self._clock(), points(credits_usd), max_concurrent)
        )

    async def set_first_key(self, account_id: str, key: str) -> None:
        """Make `key` the first account's, in place of the one that settings or the first start gave it before."""
        await self._database.write(lambda connection: _set_first_key(connection, self._clock(), account_id, key))

    async def authenticate(self, key: str) -> str:
        """The id of the account that `key` opens. Raises `Unauthorized`."""
        return await self._database.read(lambda connection: _authenticate(connection, key))

    async def get(self, account_id: str) -> Account:
        return await self._database.read(lambda connection: _get(connection, account_id))


def _ensure_first(connection: Connection, now: float, credit: int, max_concurrent: int) -> Account:
    found = connection.execute(select(accounts.c.id).where(accounts.c.name == FIRST_ACCOUNT)).scalar_one_or_none()
    if found is not None:
        return _get(connection, found)
    account_id = str(uuid.uuid4())
    connection.execute(
        insert(accounts).values(
            id=account_id, name=FIRST_ACCOUNT, balance=0, frozen=0, max_concurrent=max_concurrent, created_at=now
        )
    )
    ledger.deposit(connection, now, account_id, credit)
    return _get(connection, account_id)


def _set_first_key(connection: Connection, now: float, account_id: str, key: str) -> None:
    connection.execute(
        update(api_keys)
        .where(api_keys.c.is_first, api_keys.c.revoked_at.is_(None), api_keys.c.id != key_id(key))
        .values(revoked_at=now)
    )
    known = connection.execute(update(api_keys).where(api_keys.c.id == key_id(key)).values(revoked_at=None))
    if known.rowcount == 0:
        connection.execute(
            insert(api_keys).values(
                id=key_id(key), account_id=account_id, key_hash=key_hash(key), is_first=True, created_at=now
            )
        )


def _authenticate(connection: Connection, key: str) -> str:
    row = connection.execute(_KEY, {"of_key": key_id(key)}).one_or_none()
    if row is None or not hmac.compare_digest(row.key_hash, key_hash(key)):
        raise Unauthorized("the API key is not one of ours; send it as X-API-Key or as Authorization: Bearer")
    account_id: str = row.account_id
    return account_id


def _get(connection: Connection, account_id: str) -> Account:
    row = connection.execute(select(accounts).where(accounts.c.id == account_id)).one()
    return Account(row.id, row.name, row.balance, row.frozen, row.max_concurrent)
