"""How the engine's workers are started: by name, one a device, from the settings."""

import sys
from collections.abc import Sequence
from pathlib import Path

from fluxserve.config import EngineSettings
from fluxserve.domain.catalog import MODELS
from fluxserve.executors.local import WorkerCommand

ENGINE = "fluxserve.engine.worker"


def worker_commands(settings: EngineSettings, devices: Sequence[str]) -> list[WorkerCommand]:
    """A command for each of `devices`. Raises `FileNotFoundError` if the mini weights are not here."""
    return [
        WorkerCommand(
            name=device,
            pool=settings.pool_of(device),
            arguments=(
                sys.executable, "-m", ENGINE,
                "--family", settings.family,
                "--mini-folder", str(mini_folder()),
                *(("--lora-folder", str(settings.lora_folder)) if settings.lora_folder else ()),
                "--device", device,
                "--threads", str(settings.threads),
                "--speed", settings.speed,
                "--compilation", settings.compilation,
                "--attention", settings.attention,
                "--members", ",".join(sorted({model.member for model in MODELS.values()})),  # others: at first use
            ),
        )
        for device in devices
    ]  # fmt: skip


def mini_folder() -> Path:
    """Where the family that ships with fluxserve lies: in the installed package, or beside the sources."""
    package = Path(__file__).parents[1]
    places = (package / "mini", package.parents[1] / "models" / "mini")
    for place in places:
        if (place / "shared").is_dir():
            return place
    raise FileNotFoundError(f"the mini family's weights are not in {' or '.join(map(str, places))}")
