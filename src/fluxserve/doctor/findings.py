"""What of that which was found is amiss, and what to do about it. Nothing is asked here."""

from collections.abc import Iterator
from dataclasses import dataclass

from fluxserve.config import EngineSettings, Settings
from fluxserve.doctor.found import Found, Port, Tools
from fluxserve.domain.catalog import qualities_of
from fluxserve.domain.device import Device
from fluxserve.domain.errors import InvalidInput
from fluxserve.domain.machine import Foreseen, Machine
from fluxserve.domain.weights import PACKAGES
from fluxserve.executors.devices import best_of, named_in
from fluxserve.storage.room import to_stay_free
from fluxserve.weights import in_words

AMD = "dev/kfd"  # the trace of its driver
NVIDIA_BUILD = "`pip install --force-reinstall torch` into this environment brings CUDA's build on Linux"
ANY_BUILD = "https://pytorch.org/get-started/locally has the command for every driver"


@dataclass(frozen=True, slots=True)
class Finding:
    """`is_fatal`: it would keep a server from drawing."""

    what: str
    advice: str
    is_fatal: bool = True


def findings(settings: Settings, found: Found) -> list[Finding]:
    """The fatal ones first."""
    all_of_them = [
        *_of_versions(found),
        *_of_settings(settings),
        *_of_devices(settings.engine, found),
        *_of_weights(settings.engine, found),
        *_of_plans(settings.engine, found),
        *_of_compilation(settings.engine, found),
        *_of_disks(settings, found),
        *_of_port(found.port),
    ]
    return sorted(all_of_them, key=lambda finding: not finding.is_fatal)


def drawn_on(settings: EngineSettings, machine: Machine) -> list[Device]:
    """Of the devices that there are, those that a server would use."""
    names = named_in(settings.devices)
    if names is None:
        return best_of(machine.devices)
    return [device for device in machine.devices if device.name in names]


def compiles(settings: EngineSettings, device: Device) -> bool:
    return _is_cuda(device) if settings.compilation == "auto" else settings.compilation == "on"


def pull_of(name: str) -> str | None:
    """The command that brings a package; None for what people have to find themselves."""
    package = PACKAGES[name]
    if package.source is None:
        return None
    token = "HF_TOKEN=hf_... " if package.is_gated else ""
    accepting = "" if package.licence.is_commercial else " --accept-license"
    return f"{token}fluxserve models pull {name}{accepting}"


def _of_versions(found: Found) -> Iterator[Finding]:
    for name, version in found.versions.items():
        if version is None:
            yield Finding(f"{name} is not installed", f"`pip install {name}` into this environment")


def _of_settings(settings: Settings) -> Iterator[Finding]:
    try:
        qualities_of(settings.image.image_qualities)
    except InvalidInput as error:
        yield Finding(error.message, "FLUXSERVE_IMAGE_QUALITIES sets it")
    folder = settings.engine.lora_folder
    if folder is not None and not folder.is_dir():
        yield Finding(f"there is no folder {folder}", "FLUXSERVE_LORA_FOLDER names where LoRAs lie", is_fatal=False)


def _of_devices(settings: EngineSettings, found: Found) -> Iterator[Finding]:
    if found.machine is None:
        yield Finding(
            f"the engine can't be asked: {'; '.join(found.complaints)}",
            "install fluxserve and what it needs anew, into an environment of its own",
        )
        return
    for complaint in found.complaints:
        yield Finding(complaint, "a GPU that another process has for itself, or that is broken, is left out", False)
    names, there = named_in(settings.devices), [device.name for device in found.machine.devices]
    if names == []:
        yield Finding("FLUXSERVE_DEVICES names no device", f"here are {', '.join(there)}")
    for name in names or ():
        if name not in there:
            yield Finding(f"FLUXSERVE_DEVICES names {name}, which is not here", f"here are {', '.join(there)}; or auto")
    if found.drivers and there == ["cpu"]:
        yield _of_no_gpu(found.machine, found.drivers)


def _of_no_gpu(machine: Machine, drivers: tuple[str, ...]) -> Finding:
    driver = "AMD's driver" if set(drivers) == {AMD} else "a GPU's driver"
    if machine.built_for is None:
        build = ANY_BUILD if set(drivers) == {AMD} else f"{NVIDIA_BUILD}; {ANY_BUILD}"
        return Finding(f"{driver} is here, but torch {machine.torch} draws on CPUs only", build, is_fatal=False)
    why = f": {machine.no_gpu}" if machine.no_gpu else ""
    return Finding(
        f"{driver} is here, but torch for {machine.built_for} sees no GPU{why}",
        "see that the driver works (nvidia-smi, rocminfo) and is new enough for torch, and that CUDA_VISIBLE_DEVICES "
        "hides no card",
        is_fatal=False,
    )


def _of_weights(settings: EngineSettings, found: Found) -> Iterator[Finding]:
    if found.refusal is not None:
        what, _, advice = found.refusal.partition(": ")
        yield Finding(what, advice or "install fluxserve anew")
    if found.machine is not None and found.machine.unreadable is not None:
        yield Finding(
            f"weights of {settings.family} can't be read: {found.machine.unreadable}",
            "`fluxserve models remove NAME` and `fluxserve models pull NAME` bring them anew",
        )


def _of_plans(settings: EngineSettings, found: Found) -> Iterator[Finding]:
    if found.machine is None:
        return
    devices = drawn_on(settings, found.machine)
    plans = plans_for(settings, found.machine)
    for device, plan in zip(devices, plans, strict=False):
        if not plan.fits:
            memory = f"{in_words(device.free_bytes)} of its {in_words(device.total_bytes)} are free"
            yield Finding(
                f"{settings.family} does not fit on {device.name}: {plan.words}; {memory}",
                "stop what has the rest, or draw on a device with more: `fluxserve doctor --memory GIGABYTES` tells "
                "what would fit",
            )
    host = found.machine.devices[-1]
    free = host.total_bytes if found.is_running else host.free_bytes
    on_host = sum(plan.on_host for plan in plans if plan.fits)
    if on_host > free:
        yield Finding(
            f"{in_words(on_host)} of weights are to lie in the host's memory, of which {in_words(free)} are free",
            "stop what has the rest, add memory, or name fewer GPUs in FLUXSERVE_DEVICES",
            is_fatal=on_host > host.total_bytes,
        )
    if settings.family == "flux1" and [device.name for device in devices] == ["cpu"]:
        yield Finding(
            "FLUX.1 is to be drawn by the CPU, which takes many times as long as a GPU",
            "`fluxserve doctor --memory GIGABYTES` tells what a card of so many would do",
            is_fatal=False,
        )


def plans_for(settings: EngineSettings, machine: Machine) -> list[Foreseen]:
    """Those of the devices that a server would use, in their order, at the speed of the settings."""
    by_device = {plan.device: plan for plan in machine.plans if plan.speed == settings.speed}
    return [by_device[device.name] for device in drawn_on(settings, machine) if device.name in by_device]


def _of_compilation(settings: EngineSettings, found: Found) -> Iterator[Finding]:
    if found.machine is None:
        return
    for device in drawn_on(settings, found.machine):
        lacking = dict(_lacking(device, found.machine, found.tools)) if compiles(settings, device) else {}
        if lacking:
            yield Finding(
                f"networks can't be compiled for {device.name}: there is no {', no '.join(lacking)}",
                f"{'; '.join(lacking.values())}; or FLUXSERVE_COMPILATION=off",
            )


def _lacking(device: Device, machine: Machine, tools: Tools) -> Iterator[tuple[str, str]]:
    """What compilation for a device lacks, and what brings it."""
    if not _is_cuda(device):
        if tools.cpp is None:
            yield "C++ compiler", "install g++ (on Debian: apt-get install g++)"
        return
    if machine.triton is None:
        yield "Triton", "`pip install triton`, which torch for CUDA brings on Linux"
    if tools.c is None:
        yield "C compiler", "install gcc (on Debian: apt-get install gcc)"
    if not tools.has_headers:
        yield "Python.h", "install Python's headers (on Debian: apt-get install python3-dev)"


def _of_disks(settings: Settings, found: Found) -> Iterator[Finding]:
    for disk in found.disks:
        is_needed = disk.purpose != "weights"  # which are read there, and written by `pull` alone
        if not disk.is_writable:
            yield Finding(
                f"{disk.folder}, for {disk.purpose}, can't be written to",
                "give whoever runs fluxserve the right to, or name another folder in the settings",
                is_fatal=is_needed,
            )
        if is_needed and disk.free < to_stay_free(settings.server.least_free_bytes, disk.total):
            yield Finding(
                f"the disk of {disk.folder} is nearly full: {in_words(disk.free)} are free, so nothing new is accepted",
                "make room there, or FLUXSERVE_LEAST_FREE_BYTES says how much is to stay free",
            )


def _of_port(port: Port) -> Iterator[Finding]:
    if port.state == "somebody else":
        yield Finding(
            f"port {port.number} of {port.host} is taken, and not by a fluxserve", "FLUXSERVE_PORT chooses another"
        )
    if port.state == "refused":
        yield Finding(
            f"no server can listen at {port.host} port {port.number}: {port.why}",
            "FLUXSERVE_HOST and FLUXSERVE_PORT choose another",
        )


def _is_cuda(device: Device) -> bool:
    return device.name.startswith("cuda")
