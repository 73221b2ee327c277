"""The audit finds each kind of harm: every invariant is broken once, on purpose."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection

from fluxserve.domain.completion import Unused, Usage, Used
from fluxserve.domain.task import Completed, Errored, Repeatable, Webhook
from fluxserve.tasks.audit import CHECKS, audit
from tests.tasks.conftest import Bench, picture, without_guards

HARM = {
    "an account's balance is the sum of its ledger": "UPDATE accounts SET balance = balance - 1",
    "an account's frozen points are the sum of its ledger": "UPDATE accounts SET frozen = frozen + 1",
    "an account's frozen points are the prices of its open tasks and what its completions hold": "UPDATE completions "
    "SET held = 1 WHERE state = 'processing'",
    "what a completion may cost was held": "UPDATE ledger SET frozen_change = 1 WHERE completion_id IS NOT NULL AND "
    "phase = 'hold'",
    "a completed completion is settled with its price, and no other": "UPDATE completions SET price = price - 1",
    "a failed completion is released, and no other": "DELETE FROM ledger WHERE completion_id IS NOT NULL AND "
    "phase = 'release'",
    "points are moved for the account whose task or completion it is": "UPDATE ledger SET account_id = (SELECT id FROM "
    "accounts WHERE id <> ledger.account_id) WHERE phase = 'hold'",
    "only a completed completion has an answer": "UPDATE answers SET completion_id = (SELECT id FROM completions WHERE "
    "state = 'failed')",
    "an idempotency key is its completion's account's": "UPDATE idempotency_keys SET account_id = (SELECT id FROM "
    "accounts WHERE id <> idempotency_keys.account_id)",
    "every task's price was held": "UPDATE ledger SET frozen_change = 1 WHERE phase = 'hold'",
    "a completed task is settled, and no other": "DELETE FROM ledger WHERE phase = 'settle'",
    "a failed task is released, and no other": "DELETE FROM ledger WHERE phase = 'release'",
    "a task is completed if and only if it has outputs": "DELETE FROM outputs",
    "a failed task says why": "UPDATE tasks SET error_message = '' WHERE state = 'failed'",
    "nothing is staged while its account has room": "UPDATE tasks SET state = 'staged' WHERE state = 'pending'",
    "a private task costs nothing": "UPDATE tasks SET pool = account_id WHERE state = 'pending'",
    "a finished task's webhook is in the outbox, and no other's": "DELETE FROM webhooks",
    "an idempotency key is its task's account's": "UPDATE idempotency_keys SET account_id = (SELECT id FROM accounts "
    "WHERE id <> idempotency_keys.account_id)",
}


@pytest.fixture
def harmed(bench: Bench) -> Iterator[Connection]:
    """A transaction without guards, which comes to nothing, over a pending, a completed and a failed task."""
    bench.another_account()
    bench.finish(bench.claimed(), Completed((picture("one"),)))
    told = bench.submit(webhook=Webhook("http://receiver.test", ""), repeatable=Repeatable("key", bytes(32)))
    (failed,) = bench.claim(told)
    bench.finish(failed, Errored("drawing_failed", "it broke"))
    bench.submit()
    bench.end(bench.hold(), Used(Usage(1, 1), 700, b"{}"))
    bench.end(bench.hold(), Unused("upstreams_failed", "it broke"))
    bench.hold(repeatable=Repeatable("another key", bytes(32)))
    with bench.engine.connect() as connection:
        with without_guards(connection):
            yield connection
        connection.rollback()


def test_nothing_is_found_where_all_is_well(harmed: Connection) -> None:
    assert audit(harmed) == []


@pytest.mark.parametrize("invariant", CHECKS)
def test_each_harm_is_found(harmed: Connection, invariant: str) -> None:
    harmed.exec_driver_sql(HARM[invariant])

    assert any(invariant in finding for finding in audit(harmed))
