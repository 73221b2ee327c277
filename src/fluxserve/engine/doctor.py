"""Tells what only torch knows of this machine, and how a family would be kept on each of its devices; a line of JSON.

    python -m fluxserve.engine.doctor --family flux1 --mini-folder models/mini --weights-folder ~/models
    python -m fluxserve.engine.doctor --imagine '[{"name": "cuda:0", ...}]'

It is a process of its own, as `devices` is. Of weights it reads the sizes alone, and it judges nothing.
"""

import argparse
import importlib.metadata
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError

from fluxserve.domain import device, machine
from fluxserve.domain.catalog import FAMILIES
from fluxserve.domain.device import Device
from fluxserve.domain.machine import Concession, Foreseen, Machine
from fluxserve.domain.speeds import SPEEDS
from fluxserve.engine.checkpoint import CheckpointError
from fluxserve.engine.devices import find
from fluxserve.engine.needs import FLUX1, needs_of
from fluxserve.engine.plan import Needs, Plan, plans
from fluxserve.engine.sources import CannotDraw, Sources

ENOUGH = 10**15  # bytes of memory with which nothing is conceded
TRITONS = ("triton", "pytorch-triton-rocm", "pytorch-triton")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fluxserve.engine.doctor", description="Tells what torch knows.")
    parser.add_argument("--family", choices=sorted(FAMILIES), default="flux1")
    parser.add_argument("--mini-folder", type=Path, help="where the weights that ship with fluxserve lie")
    parser.add_argument("--weights-folder", type=Path, help="where weights of your own lie")
    parser.add_argument("--emptied", action="store_true", help="plan as if nothing else used the devices' memory")
    parser.add_argument("--imagine", type=device.load, help="devices to plan for at FLUX.1's full size, as JSON")
    asked = parser.parse_args()
    if asked.imagine:
        told = survey(asked.imagine, FLUX1, is_full_size=True)
    else:
        needs, unreadable = _needs(asked.family, Sources(asked.mini_folder, asked.weights_folder))
        is_full_size = needs is None and asked.family == "flux1"
        found = find()
        planned = [replace(each, free_bytes=each.total_bytes) for each in found] if asked.emptied else found
        told = survey(planned, FLUX1 if is_full_size else needs, is_full_size=is_full_size)
        told = replace(told, devices=tuple(found), unreadable=unreadable)
    print(machine.dump(told))


def survey(devices: Sequence[Device], needs: Needs | None, *, is_full_size: bool) -> Machine:
    """Of the machine it runs on, and of `devices`, with a plan for each at each speed if `needs` are known."""
    return Machine(
        torch=torch.__version__,
        built_for=_built_for(),
        no_gpu=_why_no_gpu(),
        triton=_triton(),
        devices=tuple(devices),
        plans=tuple(foresee(needs, devices)) if needs else (),
        is_full_size=is_full_size,
    )


def foresee(needs: Needs, devices: Sequence[Device]) -> Iterator[Foreseen]:
    for each in devices:
        for name, speed in SPEEDS.items():
            plan = plans(needs, each, speed)[0]
            wished = plans(needs, replace(each, free_bytes=ENOUGH), speed)[0]
            yield Foreseen(
                device=each.name,
                speed=name,
                words=str(plan),
                fits=plan.fits,
                concessions=tuple(_concessions(plan, wished)),
                peak=plan.peak,
                room=plan.guests - plan.transformer,
                on_host=(plan.t5 == "host") * needs.t5 + (plan.modulation == "host") * needs.modulation,
                transformers=max(0, plan.guests // plan.transformer),
            )


def _concessions(plan: Plan, wished: Plan) -> Iterator[Concession]:
    if plan.precision != wished.precision:
        yield "fp8" if plan.precision == "fp8" else "4 bits"
    elif plan.dtype != wished.dtype:
        yield "bfloat16"
    if plan.t5 == "host":
        yield "t5"
    if plan.modulation == "host":
        yield "modulation"
    if plan.is_tiled:
        yield "tiles"


def _needs(family: str, sources: Sources) -> tuple[Needs | None, str | None]:
    """What is here needs, or None; and what is wrong with it, if it can't be read."""
    try:
        return needs_of(FAMILIES[family], sources), None
    except (CheckpointError, SafetensorError, OSError, ValueError, KeyError) as error:
        return None, str(error)
    except CannotDraw:
        return None, None


def _built_for() -> str | None:
    if torch.version.hip:
        return f"ROCm {torch.version.hip}"
    if torch.version.cuda:
        return f"CUDA {torch.version.cuda}"
    return "Metal" if torch.backends.mps.is_built() else None


def _why_no_gpu() -> str | None:
    """What CUDA says to it, where torch was built for CUDA and has no device."""
    if not (torch.version.cuda or torch.version.hip) or torch.cuda.device_count():
        return None
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return None


def _triton() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return None
    for name in TRITONS:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "of an unknown version"


if __name__ == "__main__":
    main()
