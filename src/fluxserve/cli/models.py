"""models: what weights there are and which are here; to pull, to link and to remove them."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from fluxserve import config
from fluxserve.domain.weights import GROUPS, PACKAGES, Civitai, Package
from fluxserve.weights import PullError, WeightsError, everything_here, find, in_words, is_here, lacking

models = typer.Typer(help="The weights that draw: FLUX.1's, and what goes with them.", no_args_is_help=True)
console = Console(stderr=True, markup=False, highlight=False)  # there are brackets in the names of licences

Names = Annotated[list[str], typer.Argument(metavar="NAME...", help=f"As `list` tells them; or {', '.join(GROUPS)}.")]


@models.command("list")
def list_models(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Everything that can be pulled, and where it lies if it is here."""
    places = everything_here(_folder())
    if as_json:
        typer.echo(json.dumps([_told(package, places[name]) for name, package in PACKAGES.items()], indent=2))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("name", "what it is for", "size", "licence", "here"):
        table.add_column(column, no_wrap=column in ("name", "size"), overflow="fold")
    for name, package in PACKAGES.items():
        table.add_row(name, package.purpose, _size(package), package.licence.name, str(places[name] or "no"))
    Console(markup=False, highlight=False).print(table)


@models.command()
def pull(
    names: Names,
    accept_license: Annotated[
        bool, typer.Option("--accept-license", help="You accept their licences, which `pull` shows.")
    ] = False,
    path: Annotated[
        Path | None,
        typer.Option("--from", metavar="PATH", help="Link what you have: a diffusers folder, .safetensors or .gguf."),
    ] = None,
    version: Annotated[int | None, typer.Option(help="The id of a version of Civitai's.")] = None,
) -> None:
    """Bring weights here, and what they need; what was begun goes on. docs/weights.md says more."""
    packages = _named(names)
    with _one_line():
        if path is not None:
            _link(packages, path)
        else:
            _bring(packages, accept_license, version)


@models.command()
def remove(names: Names) -> None:
    """Delete weights, in the hub's cache too. Of what was linked, your own file stays."""
    from fluxserve.weights.remove import remove as remove_from

    for package in _named(names):
        removed = remove_from(package, _folder())
        where = ", ".join(map(str, removed.places))
        typer.echo(f"{package.name}: {f'{in_words(removed.freed)} freed, {where}' if where else 'it is not here'}")


@models.command("path")
def show_path(name: Annotated[str, typer.Argument(help="As `list` tells it.")]) -> None:
    """Where weights lie; fails with what to do if they are not here."""
    (package,) = _named([name])
    with _one_line():
        typer.echo(find(package.name, _folder()))


def _link(packages: Sequence[Package], path: Path) -> None:
    from fluxserve.weights.placing import place

    if len(packages) != 1:
        raise typer.BadParameter("one name, for one path", param_hint="--from")
    (package,) = packages
    typer.echo(f"{package.name}: {place(package, path, _folder())}")
    for name in _lacking_of(package):
        # A folder with all of FLUX.1-dev has the encoders too.
        if path.is_dir() and not lacking(PACKAGES[name], path):
            typer.echo(f"{name}: {place(PACKAGES[name], path, _folder())}")
        else:
            console.print(f"{package.name} also needs {name}: fluxserve models pull {name}", soft_wrap=True)


def _bring(packages: Sequence[Package], is_accepted: bool, version: int | None) -> None:
    """The story of a pull: what is here already, licences, what the sources have, room, and then the bytes."""
    from fluxserve.weights.civitai import CivitaiStore
    from fluxserve.weights.hub import HubStore
    from fluxserve.weights.pull import Puller, check_licence

    if version is not None and not (len(packages) == 1 and isinstance(packages[0].source, Civitai)):
        raise typer.BadParameter("one name, of a LoRA that is on Civitai", param_hint="--version")
    folder = _folder()
    needed = [PACKAGES[name] for package in packages for name in _lacking_of(package)]
    missing: list[Package] = []
    for package in dict.fromkeys((*packages, *needed)):
        if is_here(package.name, folder):
            if version is not None:
                raise PullError(
                    f"{package.name} is here; `fluxserve models remove {package.name}` makes room for another"
                )
            typer.echo(f"{package.name}: it is here, {find(package.name, folder)}")
        else:
            missing.append(package)
            told = f"{package.name}: {package.purpose}; {_size(package)}; {_licence(package)}"
            console.print(told, soft_wrap=True)
    for package in missing:
        check_licence(package, is_accepted)
    puller = Puller(folder, hub=HubStore(), civitai=CivitaiStore(config.civitai_token(), version))
    plans = [puller.plan(package) for package in missing]
    puller.check_room(plans)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    for plan in plans:
        with Progress(*columns, TimeRemainingColumn(), console=console) as bars:
            bar = bars.add_task(plan.package.name, total=plan.size, completed=plan.size - plan.missing)
            place = puller.fetch(plan, partial(bars.advance, bar))
        typer.echo(f"{plan.package.name}: {place}")


def _lacking_of(package: Package) -> list[str]:
    """What it needs and is not here."""
    return [name for name in package.needs if not is_here(name, _folder())]


def _size(package: Package) -> str:
    return "as its source says" if package.size is None else f"about {in_words(package.size)}"


def _licence(package: Package) -> str:
    return ", ".join(part for part in (package.licence.name, package.licence.page) if part)


def _told(package: Package, place: Path | None) -> dict[str, object]:
    return {
        "name": package.name,
        "purpose": package.purpose,
        "kind": package.kind,
        "size": package.size,
        "source": package.source.page if package.source else None,
        "licence": package.licence.name,
        "licence_page": package.licence.page or None,
        "is_commercial": package.licence.is_commercial,
        "is_gated": package.is_gated,
        "needs": package.needs,
        "path": None if place is None else str(place),
    }


def _named(names: Sequence[str]) -> list[Package]:
    """Each once, groups as all that is in them."""
    all_names = dict.fromkeys(each for name in names for each in GROUPS.get(name, (name,)))
    for name in all_names:
        if name not in PACKAGES:
            raise typer.BadParameter(f"{name} is none of {', '.join((*GROUPS, *PACKAGES))}", param_hint="NAME")
    return [PACKAGES[name] for name in all_names]


def _folder() -> Path:
    return config.load().engine.weights_dir


@contextmanager
def _one_line() -> Iterator[None]:
    """What goes wrong is told in one line."""
    try:
        yield
    except WeightsError as error:
        sys.exit(f"fluxserve: {error}")
