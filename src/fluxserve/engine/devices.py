"""Finds what this machine can draw on and prints it as a line of JSON: its GPUs, and the CPU last.

    python -m fluxserve.engine.devices

It is a process of its own, for only torch can tell, and to ask a GPU takes some of its memory until the process ends.
It chooses nothing.
"""

import os
import platform
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import torch

from fluxserve.domain.device import Device, dump
from fluxserve.engine.network.eight_bits import multiplies_eight_bits

BFLOAT16_SINCE = (8, 0)  # NVIDIA's compute capability
BFLOAT16_OF_CPUS = {"amx_bf16", "avx512_bf16", "bf16"}  # flags in /proc/cpuinfo; the last is ARM's


def find() -> list[Device]:
    return [*_cuda(range(torch.cuda.device_count())), *_mps(), _cpu()]


def find_one(device: torch.device) -> Device:
    """The one that torch calls so, "cuda" being the first GPU. Raises `LookupError`."""
    this = slice(device.index or 0, (device.index or 0) + 1)  # others are not asked, for that would take their memory
    found = {
        "cuda": lambda: _cuda(range(torch.cuda.device_count())[this]),
        "mps": lambda: _mps()[this],
        "cpu": lambda: [_cpu()][this],
    }.get(device.type, list)()
    if not found:
        raise LookupError(f"there is no {device} here")
    return found[0]


def _cuda(numbers: Iterable[int]) -> list[Device]:
    """AMD's too: ROCm has CUDA's names in torch. CUDA_VISIBLE_DEVICES and its like are heeded by the drivers."""
    found = []
    for number in numbers:
        try:
            free, total = torch.cuda.mem_get_info(number)
        except RuntimeError as error:  # it is broken, or another process has it for itself: there may be others
            print(f"cuda:{number} can't be used: {error}", file=sys.stderr)
            continue
        told = torch.cuda.get_device_properties(number)
        has_bfloat16 = bool(torch.version.hip) or (told.major, told.minor) >= BFLOAT16_SINCE
        has_fp8 = multiplies_eight_bits(torch.device("cuda", number))
        found.append(Device(f"cuda:{number}", told.name, total, free, has_bfloat16, has_fp8))
    return found


def _mps() -> list[Device]:
    if not torch.backends.mps.is_available():
        return []
    memory = torch.mps.recommended_max_memory()
    has_bfloat16 = torch.backends.mps.is_macos_or_newer(14, 0)
    return [Device("mps", platform.processor(), memory, memory, has_bfloat16)]


def _cpu() -> Device:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    available = re.search(r"MemAvailable:\s+(\d+) kB", _text("/proc/meminfo"))
    told = _text("/proc/cpuinfo")
    title = re.search(r"model name\s*:\s*(.+)", told)
    flags = re.search(r"(?:flags|Features)\s*:\s*(.+)", told)
    return Device(
        name="cpu",
        title=title[1] if title else platform.machine(),
        total_bytes=total,
        free_bytes=int(available[1]) * 1024 if available else total,
        has_bfloat16=bool(flags and BFLOAT16_OF_CPUS & set(flags[1].split())),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    )


def _text(path: str) -> str:
    """Nothing where the system has no such file."""
    return Path(path).read_text() if Path(path).exists() else ""


if __name__ == "__main__":
    print(dump(find()))
