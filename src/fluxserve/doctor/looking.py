"""Looks at the machine: asks the engine in a process of its own, the disks, the port. It judges nothing."""

import http.client
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from errno import EADDRINUSE
from importlib import metadata
from pathlib import Path

from fluxserve import __version__
from fluxserve.config import EVERYWHERE, EngineSettings, ServerSettings, Settings
from fluxserve.doctor.found import Disk, Found, Port, Tools
from fluxserve.domain import device, machine
from fluxserve.domain.catalog import ANNOTATORS, FAMILIES, LORA_FILES, SAFETY
from fluxserve.domain.device import Device
from fluxserve.domain.machine import Machine
from fluxserve.executors.devices import traces_of_drivers
from fluxserve.executors.workers import mini_folder, worker_commands
from fluxserve.weights import NotHereError, everything_here

ENGINE = "fluxserve.engine.doctor"
ENGINE_SECONDS = 180.0  # torch is read from a cold disk, and each GPU is woken
ANSWER_SECONDS = 5.0
CANNOT_BE_USED = "can't be used"  # as `engine.devices` says of a GPU
LIBRARIES = ("torch", "diffusers", "transformers")


class EngineError(Exception):
    """The engine can't be asked."""


def look(settings: Settings) -> Found:
    port = _port(settings.server)
    packages = _packages(settings.engine)
    told, complaints = _machine(settings.engine, is_emptied=port.state == "fluxserve")
    folder = settings.engine.lora_folder
    return Found(
        system=platform.platform(),
        versions=versions() | ({"torch": told.torch} if told else {}),
        drivers=tuple(traces_of_drivers()),
        machine=told,
        complaints=complaints,
        packages=packages,
        refusal=_refusal(settings.engine),
        own_loras=tuple(sorted(path.stem for path in folder.glob("*.safetensors"))) if folder else (),
        tools=_tools(),
        disks=tuple(
            _disk(purpose, folder)
            for purpose, folder in {
                "data": settings.server.data_dir,
                "pictures": settings.pictures_dir,
                "weights": settings.engine.weights_dir,
            }.items()
        ),
        port=port,
    )


def imagine(card: Device) -> Machine:
    """What a card that is not here would draw with, at FLUX.1's full size. Raises `EngineError`."""
    told, _ = _ask(["--imagine", device.dump([card])])
    return told


def versions() -> dict[str, str | None]:
    """Of what draws, as they are installed; None where one is not."""
    found: dict[str, str | None] = {"fluxserve": __version__, "Python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def _machine(settings: EngineSettings, *, is_emptied: bool) -> tuple[Machine | None, tuple[str, ...]]:
    """What the engine tells, and complains of. If `is_emptied` it plans as if the devices were free: what has them is
    the server that runs."""
    arguments = ["--family", settings.family, "--weights-folder", str(settings.weights_dir)]
    try:
        arguments += ["--mini-folder", str(mini_folder())]
        return _ask([*arguments, "--emptied"] if is_emptied else arguments)
    except (EngineError, FileNotFoundError) as error:
        return None, (str(error),)


def _ask(arguments: Sequence[str]) -> tuple[Machine, tuple[str, ...]]:
    command = [sys.executable, "-m", ENGINE, *arguments]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=ENGINE_SECONDS)
    except subprocess.TimeoutExpired:
        raise EngineError(f"it did not answer within {ENGINE_SECONDS:g} s") from None
    said = asked.stderr.strip().splitlines()
    try:
        told = machine.load(asked.stdout.splitlines()[-1])  # before it, drivers may have had their say
    except (ValueError, KeyError, TypeError, IndexError):
        why = said[-1] if said else "it told of nothing"
        raise EngineError(f"it ended with status {asked.returncode}: {why}") from None
    return told, tuple(line for line in said if CANNOT_BE_USED in line)


def _packages(settings: EngineSettings) -> dict[str, Path | None]:
    """Those that the family draws with; none of the one that ships."""
    rows, annotators, watched = FAMILIES[settings.family], ANNOTATORS[settings.family], SAFETY[settings.family]
    sources = [source for row in rows.values() for source in (row.own, row.shared, row.image_prompt, row.control)]
    sources += [annotators.soft_edge, annotators.depth, annotators.openpose]
    sources += [watched.classifier] if watched else []
    sources += LORA_FILES[settings.family].values()
    names = {source.partition("/")[0] for source in sources if source is not None}
    return {name: place for name, place in everything_here(settings.weights_dir).items() if name in names}


def _refusal(settings: EngineSettings) -> str | None:
    """Why workers can't be started with the weights that are here."""
    try:
        worker_commands(settings, ["cpu"])
    except (NotHereError, FileNotFoundError) as error:
        return str(error)
    return None


def _tools() -> Tools:
    """As Triton and torch look for them."""
    c = os.environ.get("CC")
    cpp = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    return Tools(
        c=shutil.which(c) if c else shutil.which("gcc") or shutil.which("clang"),
        cpp=shutil.which(cpp),
        has_headers=Path(sysconfig.get_path("include"), "Python.h").is_file(),
    )


def _disk(purpose: str, folder: Path) -> Disk:
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    usage = shutil.disk_usage(there)
    return Disk(purpose, folder.absolute(), usage.free, usage.total, os.access(there, os.W_OK | os.X_OK))


def _port(settings: ServerSettings) -> Port:
    host, number = settings.host, settings.port
    try:
        socket.create_server((host, number), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        if error.errno != EADDRINUSE:
            return Port(host, number, "refused", error.strerror or str(error))
        return Port(host, number, "fluxserve" if _is_fluxserve(settings) else "somebody else")
    return Port(host, number, "free")


def _is_fluxserve(settings: ServerSettings) -> bool:
    """By the form of its answer to whether it can draw."""
    host = settings.host if settings.host not in EVERYWHERE else "localhost"
    name = next((name for name in sorted(settings.host_names) if name != "*"), host)  # one that it lets in
    connection = http.client.HTTPConnection(host, settings.port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", "/healthz", headers={"Host": name})
        told = json.loads(connection.getresponse().read(100_000))
    except (OSError, http.client.HTTPException, ValueError):
        return False
    finally:
        connection.close()
    return isinstance(told, dict) and told.keys() == {"status", "workers"}
