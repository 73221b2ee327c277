"""The command line: serve, generate; and accounts, keys, webhooks, audit and migrate, on the server's database."""

import asyncio
import json
import logging
import secrets
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from fluxserve import __version__, config
from fluxserve.config import Settings, SettingsError
from fluxserve.domain import job as wire
from fluxserve.domain.catalog import MODELS
from fluxserve.domain.errors import FluxserveError, InvalidInput
from fluxserve.domain.generation import RANDOM_SEED, Generation, ImageFormat, TextToImage
from fluxserve.executors import LocalExecutor
from fluxserve.executors.devices import FinderError, devices_of
from fluxserve.executors.workers import worker_commands

if TYPE_CHECKING:
    from fluxserve.tasks import Accounts, Database, Outbox, Queue

FORMATS: dict[str, ImageFormat] = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}

app = typer.Typer(help="FLUX image generation on your own machine.", no_args_is_help=True, add_completion=False)
console = Console(stderr=True)


def main() -> None:
    try:
        app()
    except (SettingsError, FinderError) as error:
        sys.exit(f"fluxserve: {error}")


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="The address to listen at.")] = None,
    port: Annotated[int | None, typer.Option(help="The port to listen at; 0 takes any free one.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the database and the pictures live.")] = None,
    pool: Annotated[
        str | None, typer.Option(help='Whom to draw for: "public", or the id of an account for its private tasks.')
    ] = None,
) -> None:
    """Serve the APIs until stopped. docs/settings.md lists every setting."""
    import uvloop

    from fluxserve.server import Server, StartError  # the web framework and the database, for this command alone

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    settings = config.load(host=host, port=port, data_dir=data_dir, pool=pool)
    try:
        uvloop.run(Server(settings, _announce).run())
    except (StartError, FluxserveError, FileNotFoundError) as error:
        sys.exit(f"fluxserve: {error}")


def _announce(url: str, key: str | None) -> None:
    shown, typed = (key, key) if key else ("the one that you set, or that was shown at the first start", "YOUR_KEY")
    typer.echo(
        f"""
fluxserve {__version__} is at {url}   (its pages: {url}/api/docs)
API key: {shown}

Draw a cat:

  curl -s {url}/api/v1/task -H 'X-API-Key: {typed}' \\
    -d '{{"model": "Qubico/flux1-schnell", "task_type": "txt2img", "input": {{"prompt": "a little cat"}}}}'

and see the picture's address, once it is drawn, with the task_id of that answer:

  curl -s {url}/api/v1/task/TASK_ID -H 'X-API-Key: {typed}'
"""
    )


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write: .png, .jpeg, .jpg or .webp.")],
    model: Annotated[str, typer.Option(help=f"One of {', '.join(MODELS)}.")] = "flux1-schnell",
    negative_prompt: Annotated[str, typer.Option(help="What the picture should not show.")] = "",
    width: Annotated[int, typer.Option(help="Pixels.")] = 1024,
    height: Annotated[int, typer.Option(help="Pixels.")] = 1024,
    steps: Annotated[int, typer.Option(help="Denoising steps; 0 for the model's default.")] = 0,
    guidance_scale: Annotated[float | None, typer.Option(help="1.5 to 5; schnell has none.")] = None,
    seed: Annotated[int, typer.Option(min=RANDOM_SEED, help="-1 for a random one.")] = RANDOM_SEED,
) -> None:
    """Draw one picture without a server."""
    row = MODELS.get(model)
    if row is None:
        raise typer.BadParameter(f"{model} is none of {', '.join(MODELS)}", param_hint="--model")
    if output.suffix.lower() not in FORMATS:
        raise typer.BadParameter(f"{output} ends in none of {', '.join(FORMATS)}", param_hint="--output")
    if not output.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {output.parent}", param_hint="--output")
    try:
        size = row.size(width, height)
        generation = Generation(
            model=model,
            kind=TextToImage(prompt, negative_prompt),
            width=size[0],
            height=size[1],
            steps=row.steps(steps),
            guidance_scale=row.guidance(guidance_scale),
            seed=secrets.randbelow(2**31) if seed == RANDOM_SEED else seed,
            format=FORMATS[output.suffix.lower()],
        )
    except InvalidInput as error:
        raise typer.BadParameter(error.message) from None
    picture = asyncio.run(_draw(config.load(), generation))
    output.write_bytes(picture.data)
    console.print(f"{output}: {picture.width}x{picture.height}, seed {picture.seed}")


async def _draw(settings: Settings, generation: Generation) -> wire.Picture:
    """By the same worker process that a server uses."""
    executor = LocalExecutor(
        worker_commands(settings.engine, await devices_of(settings.engine.devices))[:1],
        silence_seconds=settings.engine.silence_seconds,
        stall_seconds=settings.engine.stall_seconds,
    )
    executor.start()
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    try:
        with Progress(*columns, console=console) as bar:
            steps = bar.add_task("loading models", total=generation.steps)
            while not executor.can_draw:
                executor.slots_changed.clear()
                await executor.slots_changed.wait()
            executor.assign(executor.free_slots()[0], wire.Job("generate", generation))
            while True:
                match await executor.reports.get():
                    case wire.Started():
                        bar.update(steps, description="drawing")
                    case wire.Progress(_, step):
                        bar.update(steps, completed=step)
                    case wire.Done(_, pictures):
                        bar.update(steps, description="drawn", completed=generation.steps)
                        return pictures[0]
                    case wire.Failed(_, _, message):
                        sys.exit(f"fluxserve: it could not be drawn: {message}")
                    case wire.Lost(_, reason):
                        sys.exit(f"fluxserve: its worker was lost: {reason}")
    finally:
        await executor.stop()


@app.command()
def migrate() -> None:
    """Bring the database up to date, without serving."""
    settings = config.load()
    _opened(settings).close()
    typer.echo(f"{'the database' if settings.database_address else settings.database_path} is up to date")


@app.command()
def audit() -> None:
    """Check every invariant of the queue and the ledger; fail if one does not hold."""
    findings = _ask(lambda house: house.queue.audit())
    for finding in findings:
        typer.echo(finding)
    if findings:
        raise typer.Exit(1)
    typer.echo("all is well")


# ---------------------------------------------------------------- accounts, keys, webhooks: while a server runs too

accounts = typer.Typer(help="Accounts: who may draw, and for how much.", no_args_is_help=True)
keys = typer.Typer(help="API keys: what opens an account.", no_args_is_help=True)
webhooks = typer.Typer(help="What callers were told of their tasks' ends.", no_args_is_help=True)
app.add_typer(accounts, name="accounts")
app.add_typer(keys, name="keys")
app.add_typer(webhooks, name="webhooks")

AccountId = Annotated[str, typer.Argument(metavar="ID", help="The account's id.")]
Concurrent = Annotated[int, typer.Option(help="How many of its tasks may wait and run at once; more are staged.")]


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
