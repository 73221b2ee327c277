"""serve and generate: what draws."""

import asyncio
import logging
import secrets
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from fluxserve import __version__, config
from fluxserve.config import Settings
from fluxserve.domain import job as wire
from fluxserve.domain.catalog import FAMILIES, MODELS
from fluxserve.domain.errors import FluxserveError, InvalidInput
from fluxserve.domain.generation import RANDOM_SEED, Generation, ImageFormat, TextToImage
from fluxserve.executors import LocalExecutor
from fluxserve.executors.devices import devices_of
from fluxserve.executors.workers import has, worker_commands
from fluxserve.weights import NotHereError, find

FORMATS: dict[str, ImageFormat] = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}

commands = typer.Typer()
console = Console(stderr=True)


@commands.command()
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


@commands.command()
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
    settings = config.load()
    try:
        weights = FAMILIES[settings.engine.family][row.member]
        if not has(settings.engine, weights.own):
            find(weights.own, settings.engine.weights_dir)  # which says what to do
        picture = asyncio.run(_draw(settings, generation))
    except NotHereError as error:
        sys.exit(f"fluxserve: {error}")
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
