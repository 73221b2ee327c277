"""How the engine's workers are started: by name, one a device, from the settings and with what weights are here."""

import sys
from collections.abc import Sequence
from pathlib import Path

from fluxserve.config import EngineSettings
from fluxserve.domain.catalog import FAMILIES, MODELS, SAFETY, members_here
from fluxserve.executors.local import WorkerCommand
from fluxserve.weights import find, is_here

ENGINE = "fluxserve.engine.worker"


def worker_commands(settings: EngineSettings, devices: Sequence[str]) -> list[WorkerCommand]:
    """A command for each of `devices`.

    Raises `NotHereError` unless the family has a member here and all that its pictures need, and `FileNotFoundError` if
    the mini weights are not here.
    """
    _check(settings)
    members = members_here(settings.family, lambda source: has(settings, source))
    of_models = {model.member for model in MODELS.values()}
    at_the_start = sorted(of_models.intersection(members)) or members[:1]  # the others at their first use
    return [
        WorkerCommand(
            name=device,
            pool=settings.pool_of(device),
            arguments=(
                sys.executable, "-m", ENGINE,
                "--family", settings.family,
                "--mini-folder", str(mini_folder()),
                "--weights-folder", str(settings.weights_dir),
                *(("--lora-folder", str(settings.lora_folder)) if settings.lora_folder else ()),
                "--device", device,
                "--threads", str(settings.threads),
                "--speed", settings.speed,
                "--compilation", settings.compilation,
                "--compiled-folder", str(settings.compiled_dir),
                "--attention", settings.attention,
                "--members", ",".join(at_the_start),
            ),
        )
        for device in devices
    ]  # fmt: skip


def has(settings: EngineSettings, source: str) -> bool:
    """Whether the weights that a source of the catalogue's names are here; what ships is."""
    return source.startswith("mini/") or is_here(source, settings.weights_dir)


def _check(settings: EngineSettings) -> None:
    rows, watched = list(FAMILIES[settings.family].values()), SAFETY[settings.family]
    nearest = next((row for row in rows if has(settings, row.own)), rows[0])
    for source in (nearest.own, nearest.shared, *((watched.classifier,) if watched else ())):
        if not has(settings, source):
            find(source, settings.weights_dir)  # which says what to do


def mini_folder() -> Path:
    """Where the family that ships with fluxserve lies: in the installed package, or beside the sources."""
    package = Path(__file__).parents[1]
    places = (package / "mini", package.parents[1] / "models" / "mini")
    for place in places:
        if (place / "shared").is_dir():
            return place
    raise FileNotFoundError(f"the mini family's weights are not in {' or '.join(map(str, places))}")
