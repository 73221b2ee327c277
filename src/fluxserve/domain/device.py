"""What a machine can draw on, as it crosses from the process that finds it to the server: a line of JSON."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU or the CPU. `name` is torch's, such as "cuda:0"; `title` is its maker's.

    The memory of a CPU, and of a GPU that shares it, is the machine's. `has_bfloat16` and `has_fp8` tell whether it
    computes in them by hardware of its own. `cores` are those that we may use of a CPU.
    """

    name: str
    title: str
    total_bytes: int
    free_bytes: int
    has_bfloat16: bool
    has_fp8: bool = False
    cores: int = 0


def dump(devices: Iterable[Device]) -> str:
    return json.dumps([asdict(device) for device in devices])


def load(line: str) -> list[Device]:
    """Raises `ValueError` or `TypeError` if it is no such line."""
    return [Device(**fields) for fields in json.loads(line)]
