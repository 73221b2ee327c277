"""accounts, keys, webhooks, audit and migrate: what is asked of the server's database, while one runs or not."""

import asyncio
import json
import logging
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fluxserve import config
from fluxserve.config import Settings
from fluxserve.domain.errors import FluxserveError

if TYPE_CHECKING:
    from fluxserve.tasks import Accounts, Database, Outbox, Queue

commands = typer.Typer()
accounts = typer.Typer(help="Accounts: who may draw, and for how much.", no_args_is_help=True)
keys = typer.Typer(help="API keys: what opens an account.", no_args_is_help=True)
webhooks = typer.Typer(help="What callers were told of their tasks' ends.", no_args_is_help=True)

AccountId = Annotated[str, typer.Argument(metavar="ID", help="The account's id.")]
Concurrent = Annotated[int, typer.Option(help="How many of its tasks may wait and run at once; more are staged.")]


@commands.command()
def migrate() -> None:
    """Bring the database up to date, without serving."""
    settings = config.load()
    _opened(settings).close()
    typer.echo(f"{'the database' if settings.database_address else settings.database_path} is up to date")


@commands.command()
def audit() -> None:
    """Check every invariant of the queue and the ledger; fail if one does not hold."""
    findings = _ask(lambda house: house.queue.audit())
    for finding in findings:
        typer.echo(finding)
    if findings:
        raise typer.Exit(1)
    typer.echo("all is well")


@accounts.command("create")
def create_account(
    name: Annotated[str, typer.Argument(help="Whatever you will know it by.")],
    credits_usd: Annotated[float, typer.Option(help="US$ that it starts with.")] = 0.0,
    max_concurrent: Concurrent = 16,
) -> None:
    """Open an account. Its id is in the answer; `fluxserve keys create` makes it a key."""
    _show(
        lambda house: house.accounts.create(name, credits_usd=credits_usd, max_concurrent=max_concurrent),
    )


@accounts.command("list")
def list_accounts() -> None:
    """All accounts, oldest first."""
    _show(lambda house: house.accounts.all())


@accounts.command("show")
def show_account(account_id: AccountId) -> None:
    """One account; its balance is in points, of which US$ 1 has 10,000,000."""
    _show(lambda house: house.accounts.get(account_id))


@accounts.command("credit")
def credit_account(
    account_id: AccountId, usd: Annotated[float, typer.Option(help="US$; below 0 to take some back.")]
) -> None:
    """Add to what an account can spend."""
    _show(lambda house: house.accounts.credit(account_id, usd))


@accounts.command("limit")
def limit_account(account_id: AccountId, max_concurrent: Concurrent) -> None:
    """Set how much an account may do at once."""
    _show(lambda house: house.accounts.limit(account_id, max_concurrent))


@keys.command("create")
def create_key(
    account: Annotated[str, typer.Option(help="The account's id.")],
    name: Annotated[str, typer.Option(help="Whatever you will know it by.")] = "",
) -> None:
    """Make a key. It is in the answer, and never shown again."""

    async def made(house: "House") -> dict[str, object]:
        key, secret = await house.accounts.create_key(account, name)
        return {**asdict(key), "key": secret}

    _show(made)


@keys.command("list")
def list_keys(account: Annotated[str, typer.Option(help="The account's id.")]) -> None:
    """An account's keys, but for the keys themselves."""
    _show(lambda house: house.accounts.keys(account))


@keys.command("revoke")
def revoke_key(key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `list` tells it.")]) -> None:
    """Have a key open nothing from now on."""
    _show(lambda house: house.accounts.revoke_key(key_id))


@webhooks.command("log")
def webhook_log(task_id: Annotated[str, typer.Argument(help="A task that has ended.")]) -> None:
    """Every attempt to send a task's webhook."""
    _show(lambda house: house.outbox.log(None, task_id))


@webhooks.command("resend")
def resend_webhook(task_id: Annotated[str, typer.Argument(help="A task that has ended.")]) -> None:
    """Have a task's webhook sent again, by the server that runs or the next one."""
    _show(lambda house: house.outbox.resend(None, task_id))


@dataclass(frozen=True, slots=True)
class House:
    """The rooms that these commands ask, on the database of the settings."""

    accounts: "Accounts"
    outbox: "Outbox"
    queue: "Queue"


def _show(question: Callable[[House], Awaitable[Any]]) -> None:
    """The answer as JSON."""
    answer = _ask(question)
    plain = [asdict(each) for each in answer] if isinstance(answer, list) else answer
    typer.echo(json.dumps(plain if isinstance(plain, (list, dict)) else asdict(plain), indent=2))


def _ask(question: Callable[[House], Awaitable[Any]]) -> Any:
    from fluxserve.tasks import Accounts, Outbox, Queue, Rules, Signals

    async def ask() -> Any:
        database = _opened(config.load())
        try:
            signals = Signals(database)
            return await question(
                House(Accounts(database, signals), Outbox(database, signals), Queue(database, Rules(), signals))
            )
        finally:
            database.close()

    try:
        return asyncio.run(ask())
    except FluxserveError as error:
        sys.exit(f"fluxserve: {error.message}")


def _opened(settings: Settings) -> "Database":
    from fluxserve.tasks import DatabaseError, open_database

    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        return open_database(settings.database_address, settings.database_path)
    except DatabaseError as error:
        sys.exit(f"fluxserve: {error}")
