"""What torch knows of a machine, and how a family would be kept on it, as it crosses from the process that asks to the
one that judges: a line of JSON."""

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fluxserve.domain.device import Device
from fluxserve.domain.speeds import SpeedName

Concession = Literal["t5", "modulation", "tiles", "bfloat16", "fp8", "4 bits"]


@dataclass(frozen=True, slots=True)
class Foreseen:
    """How a family is kept on a device at a speed. `words` are the plan's own.

    `concessions` are what it does for want of memory, and would not on a device that has enough: T5 or the modulation
    on the host, pictures decoded in tiles, fewer bits. `peak` is how many bytes are in use at most with one
    transformer, `room` how many there are for more, below 0 where it does not fit, `on_host` how many lie in the host's
    memory instead; `transformers` is how many fit at once.
    """

    device: str
    speed: SpeedName
    words: str
    fits: bool
    concessions: tuple[Concession, ...]
    peak: int
    room: int
    on_host: int
    transformers: int


@dataclass(frozen=True, slots=True)
class Machine:
    """`built_for` is what torch draws on besides CPUs, such as "CUDA 13.0", None if nothing; `no_gpu` why it has none
    of those. `triton` is its version.

    `plans` are for the weights that are here, or, if `is_full_size`, for FLUX.1's as they would be; `unreadable` says
    what is wrong with weights that are here.
    """

    torch: str
    built_for: str | None
    no_gpu: str | None
    triton: str | None
    devices: tuple[Device, ...]
    plans: tuple[Foreseen, ...]
    is_full_size: bool
    unreadable: str | None = None


def dump(machine: Machine) -> str:
    return json.dumps(asdict(machine))


def load(line: str) -> Machine:
    """Raises `ValueError`, `KeyError` or `TypeError` if it is no such line."""
    fields: dict[str, Any] = dict(json.loads(line))
    devices = tuple(Device(**each) for each in fields.pop("devices"))
    plans = tuple(Foreseen(**{**each, "concessions": tuple(each["concessions"])}) for each in fields.pop("plans"))
    return Machine(devices=devices, plans=plans, **fields)
