"""Machines that nobody here has, as they would be found."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from fluxserve.doctor import Disk, Found, Port, Tools
from fluxserve.domain.device import Device
from fluxserve.domain.machine import Machine
from fluxserve.engine.doctor import foresee
from fluxserve.engine.needs import FLUX1

GB = 10**9
CPU = Device("cpu", "a processor", 64 * GB, 60 * GB, has_bfloat16=True, cores=16)
SMALL_CPU = replace(CPU, total_bytes=8 * GB, free_bytes=6 * GB)
MAC = Device("mps", "an apple", 64 * GB, 60 * GB, has_bfloat16=True)
NVIDIA = "dev/nvidia*"


def card(gigabytes: float, number: int = 0) -> Device:
    size = round(gigabytes * GB)
    return Device(f"cuda:{number}", "a card", size, size, has_bfloat16=True, has_fp8=True)


def machine(*devices: Device, **more: Any) -> Machine:
    """With torch for CUDA, and FLUX.1's weights."""
    plain = Machine(
        torch="2.13.0",
        built_for="CUDA 13.0",
        no_gpu=None,
        triton="3.6.0",
        devices=devices,
        plans=tuple(foresee(FLUX1, devices)),
        is_full_size=False,
    )
    return replace(plain, **more)


def found(*devices: Device, of_machine: dict[str, Any] | None = None, **more: Any) -> Found:
    """Where nothing is amiss, but for what the devices can't do."""
    plain = Found(
        system="a system",
        versions={"fluxserve": "0.1.0", "torch": "2.13.0"},
        drivers=(NVIDIA,) if any(device.name.startswith("cuda") for device in devices) else (),
        machine=machine(*devices, **(of_machine or {})),
        complaints=(),
        packages={},
        refusal=None,
        own_loras=(),
        tools=Tools(c="/usr/bin/gcc", cpp="/usr/bin/g++", has_headers=True),
        disks=(Disk("data", Path("/srv/data"), 50 * GB, 100 * GB, is_writable=True),),
        port=Port("127.0.0.1", 8000, "free"),
    )
    return replace(plain, **more)
