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
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, func, insert, select, update

from fluxserve.domain.credits import points, usd
from fluxserve.domain.errors import InvalidInput, NotFound, ShownOnce, Unauthorized, shown
from fluxserve.domain.task import Repeatable
from fluxserve.tasks import ledger, repeats, verbs
from fluxserve.tasks.database import Database
from fluxserve.tasks.rows import can_be_id
from fluxserve.tasks.schema import accounts, api_keys
from fluxserve.tasks.signals import WAKE, Clock, Signals

KEY_PREFIX = "fxs_"
FIRST_ACCOUNT = "first"
MOST_USD = 1_000_000_000.0
MOST_CONCURRENT = 100_000
LONGEST_NAME = 200
KNOWN_SECONDS = 1.0
MOST_KNOWN = 10_000

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
    created_at: float


@dataclass(frozen=True, slots=True)
class Key:
    """What is known of a key, which is never the key itself."""

    id: str
    account_id: str
    name: str
    created_at: float
    revoked_at: float | None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request: the account, and which of its keys."""

    account_id: str
    key_id: str


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

    def __init__(self, database: Database, signals: Signals | None = None, clock: Clock | None = None) -> None:
        self._database = database
        self._signals = signals or Signals(database)
        self._clock = clock or database.now
        self._known: dict[bytes, tuple[Caller, float]] = {}  # by its hash, whose a key is, and until when that holds

    # ------------------------------------------------------------ who calls

    async def authenticate(self, key: str) -> Caller:
        """Raises `Unauthorized`. A key that was revoked elsewhere is taken for another second at most."""
        hashed, now = key_hash(key), time.monotonic()
        caller, until = self._known.get(hashed, (None, 0.0))
        if caller is None or until <= now:
            caller = await self._database.glance(lambda connection: _authenticate(connection, key))
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            self._known[hashed] = caller, now + KNOWN_SECONDS
        return caller

    # ------------------------------------------------------------ accounts

    async def create(
        self, name: str, *, credits_usd: float, max_concurrent: int, repeatable: Repeatable | None = None
    ) -> Account:
        """Raises `InvalidInput`."""
        _check_name("name", name)
        _check_limit(max_concurrent)
        granted = _points("credits_usd", credits_usd, least=0)

        def verb(connection: Connection, now: float) -> Account:
            return _create(connection, now, name, granted, max_concurrent)

        return await self._changed_once(verb, repeatable)

    async def get(self, account_id: str) -> Account:
        """Raises `NotFound`."""
        return await self._database.read(lambda connection: _get(connection, account_id))

    async def all(self) -> list[Account]:
        """Oldest first."""
        return await self._database.read(_all)

    async def credit(self, account_id: str, usd: float, repeatable: Repeatable | None = None) -> Account:
        """Add to its balance, or take from it what is not held. Raises `NotFound` or `InvalidInput`."""
        change = _points("usd", usd, least=-MOST_USD)
        return await self._changed_once(
            lambda connection, now: _credit(connection, now, account_id, change), repeatable
        )

    async def limit(self, account_id: str, max_concurrent: int) -> Account:
        """How many of its tasks may wait and run at once. Raises `NotFound` or `InvalidInput`."""
        _check_limit(max_concurrent)
        account = await self._database.write(
            lambda connection: self._signals.announcing(
                connection, (WAKE,), _limit(connection, account_id, max_concurrent)
            )
        )
        self._signals.give(WAKE)
        return account

    # ------------------------------------------------------------ keys

    async def create_key(
        self, account_id: str, name: str = "", repeatable: Repeatable | None = None
    ) -> tuple[Key, str]:
        """A new key and, this once, the key itself. Raises `NotFound`, `InvalidInput` or, for a repeat, `ShownOnce`."""
        _check_name("name", name)
        key = new_key()

        def verb(connection: Connection) -> Key:
            now = self._clock(connection)
            if repeatable and (before := repeats.operator_answer(connection, now, repeatable)):
                raise ShownOnce(
                    f"Idempotency-Key: this request made the key with the id {before['id']}, which was shown then and "
                    "never is again; if it was lost, revoke it and make another"
                )
            made = _create_key(connection, now, account_id, key, name)
            if repeatable:
                repeats.note_operator_answer(connection, now, {"id": made.id}, repeatable)
            return made

        return await self._database.write(verb), key

    async def keys(self, account_id: str) -> list[Key]:
        """Of an account, oldest first. Raises `NotFound`."""
        return await self._database.read(lambda connection: _keys(connection, account_id))

    async def revoke_key(self, id_of_key: str) -> Key:
        """From the next request on it opens nothing; at other servers, from the next second on. Raises `NotFound`."""
        revoked = await self._database.write(
            lambda connection: _revoke_key(connection, self._clock(connection), id_of_key)
        )
        self._known.clear()
        return revoked

    async def _changed_once(
        self, verb: Callable[[Connection, float], Account], repeatable: Repeatable | None
    ) -> Account:
        """What `verb` answers; to a repeat, what it answered the first time. Raises `KeyReused`."""

        def once(connection: Connection) -> Account:
            now = self._clock(connection)
            if repeatable and (before := repeats.operator_answer(connection, now, repeatable)):
                return Account(**before)
            account = verb(connection, now)
            if repeatable:
                repeats.note_operator_answer(connection, now, asdict(account), repeatable)
            return account

        return await self._database.write(once)

    # ------------------------------------------------------------ the first of both

    async def ensure_first(self, *, credits_usd: float, max_concurrent: int) -> Account:
        """The first account, made with its credits if this database has none."""
        return await self._database.write(
            lambda connection: _ensure_first(connection, self._clock(connection), points(credits_usd), max_concurrent)
        )

    async def set_first_key(self, account_id: str, key: str) -> None:
        """Make `key` the first account's, in place of the one that settings or the first start gave it before."""
        await self._database.write(
            lambda connection: _set_first_key(connection, self._clock(connection), account_id, key)
        )
        self._known.clear()

    async def offer_first_key(self, account_id: str, key: str) -> bool:
        """Make `key` the first account's if settings or a start, here or on another machine, gave it none before.

        Returns whether `key` opens the account: one that was revoked stays so.
        """
        return await self._database.write(
            lambda connection: _offer_first_key(connection, self._clock(connection), account_id, key)
        )


# ---------------------------------------------------------------- the verbs


def _authenticate(connection: Connection, key: str) -> Caller:
    found = key_id(key)
    row = connection.execute(_KEY, {"of_key": found}).one_or_none()
    if row is None or not hmac.compare_digest(row.key_hash, key_hash(key)):
        raise Unauthorized("the API key is not one of ours; send it as X-API-Key or as Authorization: Bearer")
    return Caller(row.account_id, found)


def _create(connection: Connection, now: float, name: str, granted: int, max_concurrent: int) -> Account:
    account_id = str(uuid.uuid4())
    connection.execute(
        insert(accounts).values(
            id=account_id, name=name, balance=0, frozen=0, max_concurrent=max_concurrent, created_at=now
        )
    )
    ledger.deposit(connection, now, account_id, granted)
    return _get(connection, account_id)


def _get(connection: Connection, account_id: str) -> Account:
    return _account(_found(connection, account_id, select(accounts)))


def _locked(connection: Connection, account_id: str) -> Account:
    """The same, and nobody changes it until this transaction ends."""
    return _account(_found(connection, account_id, select(accounts).with_for_update()))


def _found(connection: Connection, account_id: str, statement: Select[Any]) -> Row[Any]:
    found = statement.where(accounts.c.id == account_id)
    row = connection.execute(found).one_or_none() if can_be_id(account_id) else None
    if row is None:
        raise NotFound(f"no account has the id {shown(account_id)}")
    return row


def _all(connection: Connection) -> list[Account]:
    return [_account(row) for row in connection.execute(select(accounts).order_by(accounts.c.created_at))]


def _credit(connection: Connection, now: float, account_id: str, change: int) -> Account:
    balance = _locked(connection, account_id).balance
    if not 0 <= balance + change <= points(MOST_USD):
        raise InvalidInput(
            "usd", usd(change), f"its balance is US$ {usd(balance):,.2f}, and allowed is one from 0 to {MOST_USD:,.0f}"
        )
    ledger.deposit(connection, now, account_id, change)
    return _get(connection, account_id)


def _limit(connection: Connection, account_id: str, max_concurrent: int) -> Account:
    _locked(connection, account_id)
    connection.execute(update(accounts).where(accounts.c.id == account_id).values(max_concurrent=max_concurrent))
    verbs.promote(connection, account_id)
    return _get(connection, account_id)


def _create_key(
    connection: Connection, now: float, account_id: str, key: str, name: str, *, is_first: bool = False
) -> Key:
    _get(connection, account_id)
    connection.execute(
        insert(api_keys).values(
            id=key_id(key),
            account_id=account_id,
            key_hash=key_hash(key),
            is_first=is_first,
            created_at=now,
            name=name,
        )
    )
    return Key(key_id(key), account_id, name, now, None)


def _keys(connection: Connection, account_id: str) -> list[Key]:
    _get(connection, account_id)
    rows = connection.execute(
        select(api_keys).where(api_keys.c.account_id == account_id).order_by(api_keys.c.created_at)
    )
    return [_key(row) for row in rows]


def _revoke_key(connection: Connection, now: float, id_of_key: str) -> Key:
    found = select(api_keys).where(api_keys.c.id == id_of_key).with_for_update()
    row = connection.execute(found).one_or_none() if can_be_id(id_of_key) else None
    if row is None:
        raise NotFound(f"no key has the id {shown(id_of_key)}")
    if row.revoked_at is None:
        connection.execute(update(api_keys).where(api_keys.c.id == id_of_key).values(revoked_at=now))
    return _key(connection.execute(found).one())


def _ensure_first(connection: Connection, now: float, granted: int, max_concurrent: int) -> Account:
    found = connection.execute(
        select(accounts).where(accounts.c.name == FIRST_ACCOUNT).order_by(accounts.c.created_at).limit(1)
    ).one_or_none()
    return _create(connection, now, FIRST_ACCOUNT, granted, max_concurrent) if found is None else _account(found)


def _set_first_key(connection: Connection, now: float, account_id: str, key: str) -> None:
    connection.execute(
        update(api_keys)
        .where(api_keys.c.is_first, api_keys.c.revoked_at.is_(None), api_keys.c.id != key_id(key))
        .values(revoked_at=now)
    )
    known = connection.execute(update(api_keys).where(api_keys.c.id == key_id(key)).values(revoked_at=None))
    if known.rowcount == 0:
        _create_key(connection, now, account_id, key, FIRST_ACCOUNT, is_first=True)


def _offer_first_key(connection: Connection, now: float, account_id: str, key: str) -> bool:
    known = connection.execute(select(api_keys.c.revoked_at).where(api_keys.c.id == key_id(key))).one_or_none()
    if known is not None:
        return known.revoked_at is None
    working = api_keys.c.is_first & api_keys.c.revoked_at.is_(None) & (api_keys.c.account_id == account_id)
    if connection.execute(select(func.count()).select_from(api_keys).where(working)).scalar_one():
        return False
    _create_key(connection, now, account_id, key, FIRST_ACCOUNT, is_first=True)
    return True


# ---------------------------------------------------------------- rows and checks


def _account(row: Row[Any]) -> Account:
    return Account(row.id, row.name, row.balance, row.frozen, row.max_concurrent, row.created_at)


def _key(row: Row[Any]) -> Key:
    return Key(row.id, row.account_id, row.name, row.created_at, row.revoked_at)


def _points(field: str, asked: float, least: float) -> int:
    if not least <= asked <= MOST_USD:
        raise InvalidInput(field, asked, f"allowed are US$ {least:,.0f} to {MOST_USD:,.0f}")
    return points(asked)


def _check_name(field: str, name: str) -> None:
    if len(name) > LONGEST_NAME or not name.isprintable():
        raise InvalidInput(field, name, f"allowed is a text of at most {LONGEST_NAME} printable characters")


def _check_limit(max_concurrent: int) -> None:
    if not 1 <= max_concurrent <= MOST_CONCURRENT:
        raise InvalidInput("max_concurrent", max_concurrent, f"allowed are 1 to {MOST_CONCURRENT:,} tasks")
