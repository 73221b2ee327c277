"""Which devices the workers draw on: those that the settings name, else what is found on this machine. Torch is asked,
in a process that is started by name. It starts no workers.
"""

import asyncio
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from fluxserve.domain import device
from fluxserve.domain.device import Device

log = logging.getLogger(__name__)

FINDER = (sys.executable, "-m", "fluxserve.engine.devices")
FIND_SECONDS = 60.0
# Traces of a GPU's driver: NVIDIA's (on its small boards and in WSL too) and AMD's.
DRIVERS = ("dev/nvidia*", "proc/driver/nvidia", "dev/nvmap", "dev/dxg", "dev/kfd")


class FinderError(Exception):
    """The devices of this machine can't be found."""


async def devices_of(setting: str) -> list[str]:
    """The names of those to draw on: all that `setting` lists, or for "auto" every GPU, else the CPU. Raises
    `FinderError`."""
    if (names := named_in(setting)) is not None:
        return names
    if not can_have_gpu():
        return ["cpu"]  # at once: to ask torch takes seconds
    chosen = best_of(await find_devices())
    for each in chosen:
        log.info("%s is %s, %.1f of %.1f GB free", each.name, each.title, each.free_bytes / 1e9, each.total_bytes / 1e9)
    return [each.name for each in chosen]


def named_in(setting: str) -> list[str] | None:
    """Those that `setting` lists; None for "auto"."""
    return None if setting.strip() == "auto" else [name.strip() for name in setting.split(",") if name.strip()]


def can_have_gpu(root: Path = Path("/")) -> bool:
    return sys.platform == "darwin" or bool(traces_of_drivers(root))


def traces_of_drivers(root: Path = Path("/")) -> list[str]:
    return [driver for driver in DRIVERS if any(root.glob(driver))]


def best_of(found: Sequence[Device]) -> list[Device]:
    """The GPUs, else the CPU: beside GPUs, whoever got it would wait for many times as long as the others."""
    return [each for each in found if each.name != "cpu"] or list(found)


async def find_devices() -> list[Device]:
    """Everything that there is, the CPU last. Raises `FinderError`."""
    process = await asyncio.create_subprocess_exec(
        *FINDER, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
    )
    try:
        told, _ = await asyncio.wait_for(process.communicate(), FIND_SECONDS)
        found = device.load(told.decode().splitlines()[-1])  # before it, drivers may have had their say
    except TimeoutError:
        raise _failed(f"its finder did not answer within {FIND_SECONDS:g} s") from None
    except (ValueError, TypeError, IndexError):
        raise _failed(f"its finder ended with status {process.returncode} and told of nothing") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return found


def _failed(why: str) -> FinderError:
    return FinderError(f"what this machine can draw on could not be found: {why}; FLUXSERVE_DEVICES names it")
