"""Bugs that one could make in the queue, each planted alone, and how soon the machine finds it.

    python -m tests.tasks.mutants

A bug is a function of the queue with one piece of its text replaced. Some are planted into a database from which a
guard was taken, to see that the code's own line of defence is watched as well as the database's.
"""

import argparse
import importlib
import inspect
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy.exc import IntegrityError

from fluxserve.tasks import verbs
from tests.tasks import machine
from tests.tasks.machine import Ground, Tally

BUDGET = 20_000  # steps
LATE_WRITE = (
    "if row is None:\n"
    "        ended = (tasks.c.id == held.task_id) & tasks.c.ended_at.is_not(None)\n"
    "        connection.execute(update(tasks).where(ended).values(losses=9))"
)


RELEASE = "ledger.release(connection, now, task.account_id, Paid(task.id), task.price)"
SETTLE = "ledger.settle(connection, now, task.account_id, Paid(task.id), task.price, task.price)"


@dataclass(frozen=True, slots=True)
class Mutant:
    """`where` is a function of the room `tasks`. `loosened` takes guards away from the database first.

    `seed` is one that finds it soon, for the suite; without it, any does.
    """

    what: str
    where: str
    text: str
    instead: str
    loosened: tuple[str, ...] = ()
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Caught:
    by: str
    after: int  # steps


MUTANTS = (
    # ---- fences and states
    Mutant(
        "any attempt's word counts",
        "verbs._is_held",
        '        & (tasks.c.attempt == bindparam("of_attempt"))\n',
        "",
        seed=2,
    ),
    Mutant(
        "the word of an attempt that has ended counts",
        "verbs._is_held",
        "        & (tasks.c.state == State.PROCESSING)\n",
        "",
    ),
    Mutant(
        "progress of a late attempt counts",
        "verbs._touching",
        "_is_held()",
        'tasks.c.id == bindparam("of_task"), tasks.c.state == State.PROCESSING',
    ),
    Mutant(
        "progress of a task that does not run counts",
        "verbs._touching",
        "_is_held()",
        'tasks.c.id == bindparam("of_task"), tasks.c.attempt == bindparam("of_attempt")',
        seed=2,
    ),
    Mutant(
        "a late word is written into a finished task",
        "verbs.finish",
        "if row is None:",
        LATE_WRITE,
    ),
    Mutant(
        "the same, and the trigger that refuses it is gone",
        "verbs.finish",
        "if row is None:",
        LATE_WRITE,
        ("DROP TRIGGER tasks_final_stay",),
    ),
    Mutant("what is not pending is claimed", "verbs._pending", ", tasks.c.state == State.PENDING", ""),
    Mutant("a claim brings no new attempt number", "verbs.claim", "row.attempt + 1", "row.attempt"),
    Mutant("a claim over a lowered limit", "verbs.claim", "standing.free <= 0", "False", seed=15),
    Mutant("a turn that does not move on", "verbs.claim", "turn + row.work", "turn"),
    Mutant(
        "another account's task is found",
        "verbs.get",
        "connection.execute(_TASK, ids).one_or_none()",
        "row_of(connection, task_id)",
    ),
    Mutant(
        "a dead attempt's preview stays",
        "verbs.finish",
        "pictures.forget_preview(connection, held.task_id)",
        "pass",
    ),
    # ---- losses, leases, deadlines, wishes
    Mutant(
        "losses are not counted", "verbs.finish", "Move.LOSE, losses=task.losses + 1", "Move.LOSE, losses=task.losses"
    ),
    Mutant(
        "one loss too many is allowed",
        "verbs.finish",
        "task.losses + 1 >= losses_allowed",
        "task.losses >= losses_allowed",
        seed=2,
    ),
    Mutant("live leases are rescued", "verbs.rescue", "if not everything:", "if False:"),
    Mutant(
        "a lease is rescued in its last second",
        "verbs.rescue",
        "tasks.c.lease_until < now",
        "tasks.c.lease_until <= now",
        seed=11,
    ),
    Mutant(
        "a rescue counts no loss",
        "verbs.rescue",
        "GivenBack() if row.step is None else",
        "GivenBack() if True else",
        seed=4,
    ),
    Mutant("a renewal that renews nothing", "verbs.renew", "lease_until=now + lease_seconds", "lease_until=now"),
    Mutant(
        "a deadline ends a second late", "verbs.expire", "tasks.c.deadline <= now", "tasks.c.deadline < now", seed=40
    ),
    Mutant("a deadline overrides a wish to cancel", "verbs.expire", ", tasks.c.cancel_wished_at.is_(None)", "", seed=3),
    Mutant(
        "a wish to cancel is forgotten with its worker",
        "verbs._back_to_pending",
        "row.cancel_wished_at is not None",
        "False",
        seed=4,
    ),
    # ---- limits
    Mutant("a submit looks at no limit", "verbs._first_state", "if _has_room(connection, account_id):", "if True:"),
    Mutant("the staged are not counted", "verbs._first_state", "staged >= most_staged", "False"),
    Mutant("a promotion looks at no limit", "verbs.promote", "not _has_room(connection, account_id)", "False"),
    Mutant("a promotion takes the newest", "verbs._staged", "tasks.c.number)", "tasks.c.number.desc())"),
    Mutant("a completion promotes nothing", "verbs._complete", "promote(connection, task.account_id)", "pass", seed=7),
    Mutant("a failure promotes nothing", "verbs._end", "promote(connection, task.account_id)", "pass"),
    Mutant(
        "a higher limit promotes nothing", "accounts._limit", "verbs.promote(connection, account_id)", "pass", seed=2
    ),
    # ---- credits
    Mutant(
        "a submit holds nothing",
        "verbs.submit",
        "ledger.hold(connection, now, account_id, Paid(task_id), task.price)",
        "pass",
    ),
    Mutant("a hold looks at no balance", "ledger.hold", "price > balance", "False", seed=3),
    Mutant("the last point can't be spent", "ledger.hold", "price > balance", "price >= balance", seed=4),
    Mutant("a hold takes nothing from the balance", "ledger.hold", "balance=-price", "balance=0"),
    Mutant("a private task is charged", "verbs.submit", "0 if asked.is_private else price", "price"),
    Mutant("a private task is everybody's", "verbs.submit", "account_id if asked.is_private else PUBLIC", "PUBLIC"),
    Mutant("a failure is charged", "verbs._end", RELEASE, SETTLE),
    Mutant("a deadline is charged", "verbs._end", RELEASE, f"{SETTLE} if move is Move.EXPIRE else {RELEASE}"),
    Mutant("a completion is free", "verbs._complete", SETTLE, RELEASE),
    Mutant(
        "a release is made twice",
        "verbs._end",
        RELEASE,
        f"[{RELEASE} for _ in range(2)]",
    ),
    Mutant(
        "a settled hold is released too",
        "verbs._complete",
        "outbox.post(",
        f"{RELEASE}\n    outbox.post(",
    ),
    Mutant(
        "the same, and the index that refuses it is gone",
        "verbs._complete",
        "outbox.post(",
        f"{RELEASE}\n    outbox.post(",
        ("DROP INDEX ledger_hold_ends_once",),
    ),
    Mutant(
        "a wish to cancel gives a running task's price back at once",
        "verbs._stop",
        "    else:\n",
        "    else:\n        ledger.release(connection, now, row.account_id, Paid(row.id), row.price)\n",
        seed=3,
    ),
    Mutant("more is taken back than there is", "accounts._credit", "0 <= balance", "-1e12 <= balance", seed=2),
    # ---- idempotency and keys
    Mutant(
        "a repeat with another body is taken for the first",
        "repeats._check_same",
        "row.body_hash != repeatable.body_hash",
        "False",
        seed=3,
    ),
    Mutant("a key is every account's", "repeats._first", "idempotency_keys.c.account_id == account_id,", ""),
    Mutant(
        "a key is kept for ever", "repeats._first", "idempotency_keys.c.created_at > now - KEPT_SECONDS,", "", seed=3
    ),
    Mutant("a key is not noted", "verbs.submit", "if asked.repeatable:", "if False:"),
    Mutant(
        "a repeat tells how the task is now",
        "repeats.made_before",
        "_as_submitted(task_of(connection, row_of(connection, row.task_id)), State(row.first_state))",
        "task_of(connection, row_of(connection, row.task_id))",
    ),
    Mutant("a revoked key opens", "accounts._revoke_key", "values(revoked_at=now)", "values(revoked_at=None)", seed=2),
    # ---- webhooks and pictures
    Mutant("a failure posts no webhook", "verbs._end", "outbox.post(connection, now, task)", "pass"),
    Mutant(
        "a completion posts two webhooks",
        "verbs._complete",
        "outbox.post(connection, now, task)",
        "[outbox.post(connection, now, task) for _ in range(2)]",
    ),
    Mutant("a webhook is taken without a lease", "outbox.take", "next_at=now + lease_seconds", "next_at=now"),
    Mutant(
        "an origin's share is not heeded", "outbox.take", "min(share, MOST_TOGETHER - len(letters))", "MOST_TOGETHER"
    ),
    Mutant("a late sender's word counts", "outbox.record", ", webhooks.c.attempts == letter.attempt - 1", "", seed=18),
    Mutant("another account's webhook is sent again", "outbox.delivery_log", "if account_id is not None:", "if False:"),
    Mutant("a picture is served after its time", "pictures.stored", "table.c.expires_at > now, ", "", seed=10),
    Mutant("a picture is swept before its time", "pictures.expired_outputs", "outputs.c.expires_at <= now, ", ""),
)


@contextmanager
def planted(mutant: Mutant) -> Iterator[None]:
    room, name = mutant.where.split(".")
    module = importlib.import_module(f"fluxserve.tasks.{room}")
    healthy = getattr(module, name)
    source = inspect.getsource(healthy)
    assert source.count(mutant.text) == 1, f"{mutant.where} has not once: {mutant.text}"
    exec(source.replace(mutant.text, mutant.instead), module.__dict__)
    forget_statements()
    try:
        yield
    finally:
        setattr(module, name, healthy)
        forget_statements()


def forget_statements() -> None:
    """Those of the verbs that were built already: they are built again as the functions are now."""
    for each in vars(verbs).values():
        if hasattr(each, "cache_clear"):
            each.cache_clear()


def hunt(ground: Ground, mutant: Mutant, seed: int) -> Caught | None:
    """How the machine finds it; None if it does not."""
    tally = Tally()
    with planted(mutant):
        try:
            machine.run(ground, BUDGET, seed, loosened=mutant.loosened, quick=True, tally=tally)
        except Exception as error:
            *before, _ = tally.steps  # the last history was the failing one, played again
            return Caught(_finder(error), sum(before) + 1)
    return None


def _finder(error: Exception) -> str:
    if isinstance(error, IntegrityError):
        return f"the database: {error.orig}"
    if not isinstance(error, AssertionError):
        return f"an error that is not foretold: {type(error).__name__}"
    if str(error):
        return str(error)
    return f"what `{traceback.extract_tb(error.__traceback__)[-1].name}` did is not what the model foretells"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.tasks.mutants", description="Plant bugs and find them.")
    parser.add_argument("--seed", type=int, help="for all of them, in place of one that finds each soon")
    seed = parser.parse_args().seed
    print("| bug | in | found by | at step |\n| --- | --- | --- | --- |")
    with machine.sqlite_ground() as ground:
        for mutant in MUTANTS:
            caught = hunt(ground, mutant, mutant.seed if seed is None else seed)
            by, after = (caught.by, f"{caught.after:,}") if caught else ("**nothing**", f"none of {BUDGET:,}")
            print(f"| {mutant.what} | `{mutant.where}` | {by} | {after} |", flush=True)


if __name__ == "__main__":
    main()
