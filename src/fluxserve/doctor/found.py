"""What was found on a machine, before anybody judges it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fluxserve.domain.machine import Machine


@dataclass(frozen=True, slots=True)
class Disk:
    """Where a folder of the settings lies, or will: `purpose` is what it is for."""

    purpose: str
    folder: Path
    free: int
    total: int
    is_writable: bool


@dataclass(frozen=True, slots=True)
class Port:
    """Whether a server could listen there: it is free, or a fluxserve or somebody else has it, or the system refuses
    it, and `why` says how."""

    host: str
    number: int
    state: Literal["free", "fluxserve", "somebody else", "refused"]
    why: str = ""


@dataclass(frozen=True, slots=True)
class Tools:
    """What compilation needs beside torch: where the compilers are, of C for CUDA and of C++ for others, and whether
    Python's headers are there."""

    c: str | None
    cpp: str | None
    has_headers: bool


@dataclass(frozen=True, slots=True)
class Found:
    """`versions` are by name, None for what is not installed. `drivers` are traces of GPUs' drivers.

    `machine` is what the engine tells, None where it can't, and `complaints` what was said meanwhile, or why it can't.
    `packages` are those that the family of the settings draws with, and where each lies if it is here; `refusal` is why
    a server would not start with them. `own_loras` are names in the person's own folder.
    """

    system: str
    versions: Mapping[str, str | None]
    drivers: tuple[str, ...]
    machine: Machine | None
    complaints: tuple[str, ...]
    packages: Mapping[str, Path | None]
    refusal: str | None
    own_loras: tuple[str, ...]
    tools: Tools
    disks: tuple[Disk, ...]
    port: Port

    @property
    def is_running(self) -> bool:
        """Whether a server runs already: what it has of the devices' memory is not in its own way."""
        return self.port.state == "fluxserve"
