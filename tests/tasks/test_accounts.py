"""Accounts and keys."""

import time
import zlib
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, select

from fluxserve.domain.errors import InvalidInput, NotFound, Unauthorized
from fluxserve.domain.task import State
from fluxserve.tasks import Accounts, Database
from fluxserve.tasks.accounts import KEY_PREFIX, KNOWN_SECONDS, key_id, new_key
from fluxserve.tasks.audit import audit
from fluxserve.tasks.schema import metadata
from tests.tasks.conftest import Bench

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

    caller = await accounts.authenticate("my key")
    assert (caller.account_id, caller.key_id) == (first.id, key_id("my key"))
    for wrong in ("my kez", "", "my key ", "MY KEY"):
        with pytest.raises(Unauthorized):
            await accounts.authenticate(wrong)


async def test_another_first_key_takes_the_place_of_the_last(accounts: Accounts) -> None:
    first = await accounts.ensure_first(credits_usd=1, max_concurrent=1)
    for key in ("old", "new", "new"):
        await accounts.set_first_key(first.id, key)

    assert (await accounts.authenticate("new")).account_id == first.id
    with pytest.raises(Unauthorized):
        await accounts.authenticate("old")

    await accounts.set_first_key(first.id, "old")
    assert (await accounts.authenticate("old")).account_id == first.id


async def test_the_database_holds_no_key(accounts: Accounts, engine: Engine) -> None:
    first = await accounts.ensure_first(credits_usd=1, max_concurrent=1)
    key = new_key()
    await accounts.set_first_key(first.id, key)

    with engine.connect() as connection:
        rows = [row for table in metadata.sorted_tables for row in connection.execute(select(table))]
    dump = "\n".join(map(repr, rows))
    assert key_id(key) in dump
    assert key not in dump
    assert key.removeprefix(KEY_PREFIX)[:20] not in dump


def test_a_new_key_has_256_random_bits_and_a_checksum() -> None:
    keys = {new_key() for _ in range(100)}

    assert len(keys) == 100
    for key in keys:
        secret, checksum = key.removeprefix(KEY_PREFIX)[:64], key[-8:]
        assert len(bytes.fromhex(secret)) == 32
        assert int(checksum, 16) == zlib.crc32(secret.encode())


async def test_an_account_starts_with_its_credits_and_its_limit(accounts: Accounts) -> None:
    made = await accounts.create("studio", credits_usd=2.5, max_concurrent=3)

    assert (made.name, made.balance, made.frozen, made.max_concurrent) == ("studio", 25_000_000, 0, 3)
    assert await accounts.get(made.id) == made
    assert await accounts.all() == [made]


async def test_credit_is_added_and_taken_back_but_never_more_than_there_is(accounts: Accounts) -> None:
    made = await accounts.create("studio", credits_usd=1, max_concurrent=3)

    assert (await accounts.credit(made.id, 0.5)).balance == 15_000_000
    assert (await accounts.credit(made.id, -1.5)).balance == 0
    with pytest.raises(InvalidInput, match=r"usd: -0\.1 is .*balance is US\$ 0\.00"):
        await accounts.credit(made.id, -0.1)


async def test_no_account_begins_with_less_than_nothing_or_comes_to_more_than_a_billion(accounts: Accounts) -> None:
    with pytest.raises(InvalidInput, match=r"credits_usd: -1 is not allowed; allowed are US\$ 0 to 1,000,000,000"):
        await accounts.create("studio", credits_usd=-1, max_concurrent=3)
    made = await accounts.create("studio", credits_usd=1e9, max_concurrent=3)
    with pytest.raises(InvalidInput, match=r"usd: 0\.01 is .*balance is US\$ 1,000,000,000\.00"):
        await accounts.credit(made.id, 0.01)


@pytest.mark.parametrize("usd", [float("nan"), float("inf"), 1e30, -1e30])
async def test_no_sum_that_is_none_is_taken(accounts: Accounts, usd: float) -> None:
    made = await accounts.create("studio", credits_usd=1, max_concurrent=3)

    with pytest.raises(InvalidInput, match="usd: "):
        await accounts.credit(made.id, usd)


async def test_a_limit_must_leave_room_for_one(accounts: Accounts) -> None:
    made = await accounts.create("studio", credits_usd=1, max_concurrent=3)

    assert (await accounts.limit(made.id, 7)).max_concurrent == 7
    with pytest.raises(InvalidInput, match="max_concurrent: 0 is not allowed"):
        await accounts.limit(made.id, 0)


async def test_a_lowered_limit_holds_for_what_comes_after_it(bench: Bench, accounts: Accounts) -> None:
    before = [bench.submit() for _ in range(3)]

    await accounts.limit(bench.account_id, 2)
    after = [bench.submit() for _ in range(2)]

    assert {bench.get(task).state for task in before} == {State.PENDING}
    assert {bench.get(task).state for task in after} == {State.STAGED}
    with bench.engine.begin() as connection:
        assert audit(connection) == []
    for task in before[:2]:
        bench.cancel(task)
    assert [bench.get(task).state for task in after] == [State.PENDING, State.STAGED]


async def test_an_account_has_several_keys_and_each_is_revoked_alone(accounts: Accounts) -> None:
    made = await accounts.create("studio", credits_usd=1, max_concurrent=3)
    (one, first), (other, second) = [await accounts.create_key(made.id, name) for name in ("laptop", "server")]

    assert [key.name for key in await accounts.keys(made.id)] == ["laptop", "server"]
    revoked = await accounts.revoke_key(one.id)

    assert revoked.revoked_at is not None
    assert await accounts.revoke_key(one.id) == revoked  # its time stays
    assert (await accounts.authenticate(second)).key_id == other.id
    with pytest.raises(Unauthorized):
        await accounts.authenticate(first)


async def test_a_key_that_another_process_revoked_opens_nothing_after_a_second(
    accounts: Accounts, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await accounts.create("studio", credits_usd=1, max_concurrent=3)
    key, secret = await accounts.create_key(made.id)
    now = time.monotonic()
    monkeypatch.setattr("fluxserve.tasks.accounts.time.monotonic", lambda: now)
    assert (await accounts.authenticate(secret)).key_id == key.id

    database = Database(engine)
    await Accounts(database).revoke_key(key.id)

    assert (await accounts.authenticate(secret)).key_id == key.id
    now += KNOWN_SECONDS
    with pytest.raises(Unauthorized):
        await accounts.authenticate(secret)


async def test_what_is_not_there_is_said_to_be_missing(accounts: Accounts) -> None:
    for ask in (
        accounts.get("nobody"),
        accounts.credit("nobody", 1),
        accounts.limit("nobody", 1),
        accounts.create_key("nobody"),
        accounts.keys("nobody"),
        accounts.revoke_key("nothing"),
        accounts.get("no\0body"),
        accounts.keys("nobödy"),
        accounts.revoke_key("\udcff"),
    ):
        with pytest.raises(NotFound):
            await ask
