"""doctor: what a person runs first when something is not as expected, or before buying a card."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from fluxserve import config
from fluxserve.config import EngineSettings, Settings, SettingsError
from fluxserve.doctor import (
    EngineError,
    Finding,
    Found,
    compiles,
    drawn_on,
    findings,
    imagine,
    look,
    meanings,
    plans_for,
    pull_of,
    versions,
)
from fluxserve.domain.catalog import FAMILIES
from fluxserve.domain.device import Device
from fluxserve.domain.machine import Foreseen, Machine
from fluxserve.domain.weights import GROUPS, PACKAGES
from fluxserve.weights import in_words

GIGABYTE = 10**9

commands = typer.Typer()
console = Console(markup=False, highlight=False)  # there are brackets in paths and in the commands that are told


@commands.command()
def doctor(
    memory: Annotated[
        float | None,
        typer.Option(min=1, metavar="GIGABYTES", help="Plan FLUX.1 for a CUDA card of so many, here or not."),
    ] = None,
    has_fp8: Annotated[bool, typer.Option("--fp8/--no-fp8", help="Whether that card computes in fp8.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say what this machine draws with and what it lacks; fail if something would keep a server from drawing."""
    if memory is None and not has_fp8:
        raise typer.BadParameter("it goes with --memory", param_hint="--no-fp8")
    can_draw = _examine(as_json) if memory is None else _plan_card(memory, has_fp8, as_json)
    if not can_draw:
        raise typer.Exit(1)


def _examine(as_json: bool) -> bool:
    try:
        settings = config.load()
    except SettingsError as error:
        refused = [Finding(str(error), "docs/settings.md has every setting and what is allowed")]
        if as_json:
            _print_json({"versions": versions(), "findings": [asdict(each) for each in refused], "can_draw": False})
        else:
            _show_versions(versions())
            _show_findings(refused)
        return False
    found = look(settings)
    amiss = findings(settings, found)
    if as_json:
        _print_json(_told(settings, found, amiss))
    else:
        _show(settings, found)
        _show_findings(amiss)
    return _can_draw(amiss)


def _plan_card(memory: float, has_fp8: bool, as_json: bool) -> bool:
    """That much is free on it: of a card's gigabytes about as many billions of bytes are, beside its driver."""
    size = round(memory * GIGABYTE)
    card = Device("cuda:0", f"a card of {memory:g} GB", size, size, has_bfloat16=True, has_fp8=has_fp8)
    try:
        plans = imagine(card).plans
    except EngineError as error:
        sys.exit(f"fluxserve: the engine can't be asked: {error}")
    members = len(FAMILIES["flux1"])
    if as_json:
        _print_json({"card": asdict(card), "plans": [_plan_told(plan, members) for plan in plans]})
    else:
        _head(f"FLUX.1 at its full size on a CUDA card of {memory:g} GB, {'with' if has_fp8 else 'without'} fp8")
        for _, same in groupby(plans, key=lambda plan: plan.words):
            plan, *others = same
            _show_plan(", ".join(each.speed for each in (plan, *others)), plan, members)
    return all(plan.fits for plan in plans)


def _can_draw(amiss: Iterable[Finding]) -> bool:
    return not any(finding.is_fatal for finding in amiss)


def _members(settings: EngineSettings, found: Found) -> int:
    """How many transformers there are to draw with; all of them where none is here yet."""
    rows = FAMILIES[settings.family].values()
    here = [row for row in rows if row.own not in found.packages or found.packages[row.own] is not None]
    return len(here or rows)


# ------------------------------------------------------------ for people


def _show(settings: Settings, found: Found) -> None:
    machine = found.machine
    _show_versions(found.versions, found.system, machine)
    if machine is not None:
        _show_devices(settings.engine, machine)
    _show_weights(settings.engine, found)
    if machine is not None:
        _show_plans(settings.engine, found, machine)
        _show_compilation(settings.engine, found, machine)
    _show_place(found)


def _show_versions(told: Mapping[str, str | None], system: str = "", machine: Machine | None = None) -> None:
    _head("versions")
    _line(", ".join(f"{name} {version or 'missing'}" for name, version in told.items()))
    if machine is not None:
        _line(f"torch is built for {machine.built_for or 'CPUs only'}")
    if system:
        _line(system)


def _show_devices(settings: EngineSettings, machine: Machine) -> None:
    _head("devices")
    used = drawn_on(settings, machine)
    table = Table(box=None, pad_edge=False, show_header=False)
    for device in machine.devices:
        types = [name for name, has in (("bfloat16", device.has_bfloat16), ("fp8", device.has_fp8)) if has]
        table.add_row(
            device.name,
            device.title,
            f"{in_words(device.free_bytes)} of {in_words(device.total_bytes)} free",
            f"computes in {', '.join(['float32', *types])}",
            "draws" if device in used else "",
        )
    console.print(Padding(table, (0, 0, 0, 2), expand=False))


def _show_weights(settings: EngineSettings, found: Found) -> None:
    _head(f"weights of {settings.family}")
    if not found.packages:
        _line("they ship with fluxserve")
    loras = [name for name in found.packages if PACKAGES[name].kind == "lora"]
    for name, place in found.packages.items():
        if name not in loras:
            size = in_words(PACKAGES[name].size or 0)
            _line_to_copy(f"{name:<20} {size:>8}  {place or f'missing: {pull_of(name)}'}")
    if loras:
        here = [name for name in loras if found.packages[name] is not None]
        missing = "" if len(here) == len(loras) else f"  missing: {_pull_of_loras(found)}"
        _line_to_copy(f"{'LoRAs':<20} {f'{len(here)} of {len(loras)}':>8}{missing}")
    if found.own_loras:
        _line(f"LoRAs of your own: {', '.join(found.own_loras)}")


def _pull_of_loras(found: Found) -> str:
    missing = [name for name in GROUPS["loras"] if found.packages.get(name) is None]
    if not missing:
        return "for you to find, `fluxserve models list` tells their names"
    return "fluxserve models pull loras --accept-license"


def _show_plans(settings: EngineSettings, found: Found, machine: Machine) -> None:
    size = "FLUX.1 as it will be, at its full size" if machine.is_full_size else f"{settings.family} as it is here"
    emptied = "; memory as it is without the server that runs" if found.is_running else ""
    for device, plan in zip(drawn_on(settings, machine), plans_for(settings, machine), strict=False):
        _head(f"plan on {device.name}: {size}{emptied}")
        _show_plan(plan.speed, plan, _members(settings, found))
        for other in machine.plans:
            if other.device == device.name and other.speed != plan.speed:
                _line(_plan_line(other.speed, other, _members(settings, found)))


def _show_plan(speeds: str, plan: Foreseen, members: int) -> None:
    _line(_plan_line(speeds, plan, members))
    for meaning in meanings(plan, members):
        _line(f"- {meaning}", indent=4)


def _plan_line(speeds: str, plan: Foreseen, members: int) -> str:
    fitting = f"; {min(plan.transformers, members)} of {members} transformers at once" if plan.fits else ""
    return f"{speeds}: {plan.words}{fitting}"


def _show_compilation(settings: EngineSettings, found: Found, machine: Machine) -> None:
    _head("compilation")
    of_whom = [device.name for device in drawn_on(settings, machine) if compiles(settings, device)]
    _line(f'"{settings.compilation}": ' + (f"on for {', '.join(of_whom)}" if of_whom else "off for what draws here"))
    headers = "Python.h" if found.tools.has_headers else "no Python.h"
    triton = f"Triton {machine.triton}" if machine.triton else "no Triton"
    _line(f"{found.tools.c or 'no C compiler'}, {found.tools.cpp or 'no C++ compiler'}, {headers}, {triton}")
    _line(f"kept in {settings.compiled_dir}")


def _show_place(found: Found) -> None:
    _head("disks and port")
    for disk in found.disks:
        _line(f"{disk.purpose}: {in_words(disk.free)} of {in_words(disk.total)} free, {disk.folder}")
    state = "a fluxserve is running there" if found.is_running else found.port.state
    _line(f"port {found.port.number} of {found.port.host}: {state}")


def _show_findings(amiss: Sequence[Finding]) -> None:
    _head("findings")
    for finding in amiss:
        mark, style = ("stops it", "bold red") if finding.is_fatal else ("take note", "bold yellow")
        console.print(f"  {mark}", style=style)
        _line(finding.what, indent=4)
        _line(f"→ {finding.advice}", indent=4)
    _line("nothing keeps a server from drawing" if _can_draw(amiss) else "a server would not draw like this")


def _head(words: str) -> None:
    console.print()
    console.print(words, style="bold")


def _line(words: str, indent: int = 2) -> None:
    console.print(Padding(words, (0, 0, 0, indent), expand=False))


def _line_to_copy(words: str) -> None:
    """Left to the terminal to wrap, so that a command in it is copied whole."""
    console.print(f"  {words}", soft_wrap=True)


# ------------------------------------------------------------ for programs


def _told(settings: Settings, found: Found, amiss: Sequence[Finding]) -> dict[str, object]:
    machine, members = found.machine, _members(settings.engine, found)
    of_machine: dict[str, object] = {}
    if machine is not None:
        used = drawn_on(settings.engine, machine)
        names = [device.name for device in used]
        of_machine = {
            "torch_is_built_for": machine.built_for,
            "devices": [asdict(device) | {"draws": device in used} for device in machine.devices],
            "plans_at_full_size": machine.is_full_size,
            "plans": [_plan_told(plan, members) for plan in machine.plans if plan.device in names],
            "compilation": {
                "devices": [device.name for device in used if compiles(settings.engine, device)],
                "triton": machine.triton,
                **asdict(found.tools),
                "folder": str(settings.engine.compiled_dir),
            },
        }
    return {
        "versions": dict(found.versions),
        "system": found.system,
        "family": settings.engine.family,
        "speed": settings.engine.speed,
        "weights": [
            {"name": name, "path": place, "size": PACKAGES[name].size, "pull": pull_of(name)}
            for name, place in found.packages.items()
        ],
        "own_loras": found.own_loras,
        **of_machine,
        "disks": [asdict(disk) for disk in found.disks],
        "port": asdict(found.port),
        "findings": [asdict(finding) for finding in amiss],
        "can_draw": _can_draw(amiss),
    }


def _plan_told(plan: Foreseen, members: int) -> dict[str, object]:
    return asdict(plan) | {"transformers": min(plan.transformers, members), "meaning": meanings(plan, members)}


def _print_json(told: Mapping[str, object]) -> None:
    typer.echo(json.dumps(told, indent=2, default=_plain))


def _plain(value: object) -> str:
    assert isinstance(value, Path)
    return str(value)
