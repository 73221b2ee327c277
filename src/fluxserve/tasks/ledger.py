"""Credits: every change of an account's points is a row of the ledger, and the account's sums follow it.

A task's price is held when it is submitted; the hold ends once, settled when the task completes or released when it
fails. Of a chat completion the most that it may cost is held, and settled with what it did cost. These functions run
inside the transaction that moves the task or the completion; the database's unique indexes refuse a second ending even
if this code were wrong.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, insert, select, update

from fluxserve.domain.errors import NotEnoughCredits
from fluxserve.tasks.schema import accounts, ledger

# Built once: building a statement costs more than running it, and these run for every task.
_BALANCE = select(accounts.c.balance).where(accounts.c.id == bindparam("of_account"))
_ENTRY = insert(ledger)
_SUMS = (
    update(accounts)
    .where(accounts.c.id == bindparam("of_account"))
    .values(
        balance=accounts.c.balance + bindparam("balance_change"),
        frozen=accounts.c.frozen + bindparam("frozen_change"),
    )
)


@dataclass(frozen=True, slots=True)
class Paid:
    """What a hold is for: a task or a completion."""

    task_id: str | None = None
    completion_id: str | None = None


NOTHING = Paid()


def deposit(connection: Connection, now: float, account_id: str, points: int) -> None:
    _enter(connection, now, account_id, NOTHING, "deposit", balance=points, frozen=0)


def hold(connection: Connection, now: float, account_id: str, paid: Paid, price: int) -> None:
    """Raises `NotEnoughCredits` if the account can't pay `price`."""
    balance = connection.execute(_BALANCE, {"of_account": account_id}).scalar_one()
    if price > balance:
        raise NotEnoughCredits(price, balance)
    _enter(connection, now, account_id, paid, "hold", balance=-price, frozen=price)


def settle(connection: Connection, now: float, account_id: str, paid: Paid, held: int, price: int) -> None:
    """What was held above `price` is given back."""
    _enter(connection, now, account_id, paid, "settle", balance=held - price, frozen=-held)


def release(connection: Connection, now: float, account_id: str, paid: Paid, held: int) -> None:
    _enter(connection, now, account_id, paid, "release", balance=held, frozen=-held)


def _enter(
    connection: Connection, now: float, account_id: str, paid: Paid, phase: str, *, balance: int, frozen: int
) -> None:
    changes = {"balance_change": balance, "frozen_change": frozen}
    entry = {"task_id": paid.task_id, "completion_id": paid.completion_id, "phase": phase, "at": now, **changes}
    connection.execute(_ENTRY, {"account_id": account_id, **entry})
    connection.execute(_SUMS, {"of_account": account_id, **changes})
