"""Whatever the machine: what would keep a server from drawing is found, with what to do, and nothing else is."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fluxserve.config import EngineSettings, ImageSettings, ServerSettings, Settings
from fluxserve.doctor import Disk, Finding, Found, Port, Tools, drawn_on, findings, pull_of
from tests.doctor.machines import CPU, GB, MAC, NVIDIA, SMALL_CPU, card, found

AMD = "dev/kfd"
TWO = (card(80), card(80, number=1))
NO_TOOLS = Tools(c=None, cpp=None, has_headers=False)


def flux1(**engine: Any) -> Settings:
    return Settings(engine=EngineSettings(family="flux1", **engine))


def only(settings: Settings, found: Found) -> Finding:
    (finding,) = findings(settings, found)
    return finding


@pytest.mark.parametrize(
    "devices",
    [(card(24), CPU), (*TWO, CPU), (MAC, CPU)],
    ids=["a card of 24 GB", "two of 80 GB", "a Mac"],
)
def test_a_machine_that_can_draw_has_no_findings(devices: tuple[Any, ...]) -> None:
    assert findings(flux1(), found(*devices)) == []


def test_by_default_all_gpus_are_drawn_on_else_those_that_are_named() -> None:
    machine = found(*TWO, CPU).machine
    assert machine is not None
    names = {
        setting: [device.name for device in drawn_on(EngineSettings(devices=setting), machine)]
        for setting in ("auto", "cuda:1", "cpu, cuda:0")
    }
    assert names == {"auto": ["cuda:0", "cuda:1"], "cuda:1": ["cuda:1"], "cpu, cuda:0": ["cuda:0", "cpu"]}


def test_a_device_that_is_named_and_not_here_is_fatal() -> None:
    finding = only(flux1(devices="cuda:0,cuda:2"), found(*TWO, CPU))
    advice = "here are cuda:0, cuda:1, cpu; or auto"
    assert finding == Finding("FLUXSERVE_DEVICES names cuda:2, which is not here", advice)


def test_settings_that_name_no_device_are_fatal() -> None:
    assert only(flux1(devices=" , "), found(*TWO, CPU)).what == "FLUXSERVE_DEVICES names no device"


def test_torch_for_cpus_beside_a_gpus_driver_is_told_with_the_build_to_install() -> None:
    for_cpus = found(CPU, drivers=(NVIDIA,), of_machine={"built_for": None, "torch": "2.13.0+cpu"})

    finding = only(Settings(), for_cpus)

    assert not finding.is_fatal  # the CPU draws
    assert finding.what == "a GPU's driver is here, but torch 2.13.0+cpu draws on CPUs only"
    assert "pip install --force-reinstall torch" in finding.advice
    told = only(Settings(), replace(for_cpus, drivers=(AMD,)))
    assert told.what.startswith("AMD's driver is here")
    assert "pip install" not in told.advice  # which would bring CUDA's


def test_a_driver_that_torch_can_not_use_is_told_in_its_own_words() -> None:
    blind = found(CPU, drivers=(NVIDIA,), of_machine={"no_gpu": "The NVIDIA driver on your system is too old"})
    finding = only(Settings(), blind)
    assert finding.what.endswith("torch for CUDA 13.0 sees no GPU: The NVIDIA driver on your system is too old")
    assert not finding.is_fatal


def test_a_gpu_that_can_not_be_used_is_told() -> None:
    complaint = "cuda:1 can't be used: out of memory"
    finding = only(flux1(), found(card(24), CPU, complaints=(complaint,)))
    assert (finding.what, finding.is_fatal) == (complaint, False)


def test_an_engine_that_can_not_be_asked_is_fatal_and_says_why() -> None:
    finding = only(Settings(), found(CPU, machine=None, complaints=("it ended with status 1: no torch",)))
    assert finding.what == "the engine can't be asked: it ended with status 1: no torch"
    assert finding.is_fatal


def test_a_library_that_is_missing_is_fatal() -> None:
    assert only(Settings(), found(CPU, versions={"diffusers": None})).what == "diffusers is not installed"


def test_weights_that_are_missing_or_broken_are_fatal() -> None:
    refused = found(card(24), CPU, refusal="flux1-schnell is not here: `fluxserve models pull flux1-schnell` brings it")
    assert only(flux1(), refused) == Finding(
        "flux1-schnell is not here", "`fluxserve models pull flux1-schnell` brings it"
    )
    broken = found(card(24), CPU, of_machine={"unreadable": "x.gguf is no GGUF file"})
    assert only(flux1(), broken).what == "weights of flux1 can't be read: x.gguf is no GGUF file"


def test_the_command_that_brings_weights_has_what_their_licence_asks() -> None:
    assert pull_of("flux1-schnell") == "fluxserve models pull flux1-schnell"
    assert pull_of("flux1-dev") == "HF_TOKEN=hf_... fluxserve models pull flux1-dev --accept-license"
    assert pull_of("anime") == "fluxserve models pull anime --accept-license"
    assert pull_of("mystic-realism") is None


def test_a_device_that_is_too_small_is_fatal() -> None:
    finding = only(flux1(), found(card(4), CPU))
    assert finding.what.startswith("flux1 does not fit on cuda:0: large layers in 4 bits, ")
    assert finding.what.endswith("4.0 GB of its 4.0 GB are free")
    assert finding.is_fatal


def test_on_a_cpu_with_little_memory_flux1_does_not_fit_and_it_would_be_slow() -> None:
    too_small, slow = findings(flux1(), found(SMALL_CPU))
    assert too_small.is_fatal
    assert "flux1 does not fit on cpu" in too_small.what
    assert not slow.is_fatal
    assert "many times as long" in slow.what


@pytest.mark.parametrize(("gigabytes", "is_fatal"), [(10, True), (30, False)])
def test_what_cards_put_into_the_hosts_memory_must_find_room_there(gigabytes: int, is_fatal: bool) -> None:
    """16 GB for each of two cards of 24 GB."""
    host = replace(CPU, total_bytes=(gigabytes + 4) * GB, free_bytes=gigabytes * GB)
    finding = only(flux1(), found(card(24), card(24, number=1), host))
    assert finding.what.startswith("32.0 GB of weights are to lie in the host's memory")
    assert finding.is_fatal == is_fatal


def test_what_a_running_server_has_of_the_hosts_memory_is_not_in_its_own_way() -> None:
    host = replace(CPU, free_bytes=10 * GB)
    running = Port("127.0.0.1", 8000, "fluxserve")
    assert findings(flux1(), found(card(24), host, port=running)) == []
    assert len(findings(flux1(), found(card(24), host))) == 1


@pytest.mark.parametrize(
    ("tools", "triton", "lacking"),
    [
        (NO_TOOLS, None, "there is no Triton, no C compiler, no Python.h"),
        (Tools("/usr/bin/gcc", None, has_headers=False), "3.6.0", "there is no Python.h"),
    ],
)
def test_cuda_compiles_by_default_and_what_that_lacks_is_fatal(tools: Tools, triton: str | None, lacking: str) -> None:
    bare = found(card(80), CPU, tools=tools, of_machine={"triton": triton})

    finding = only(flux1(), bare)

    assert finding.is_fatal
    assert finding.what == f"networks can't be compiled for cuda:0: {lacking}"
    assert "FLUXSERVE_COMPILATION=off" in finding.advice
    assert findings(flux1(compilation="off"), bare) == []


def test_elsewhere_compilation_wants_a_cpp_compiler_if_it_is_on() -> None:
    bare = found(CPU, tools=NO_TOOLS, of_machine={"triton": None})
    assert findings(Settings(), bare) == []
    finding = only(Settings(engine=EngineSettings(compilation="on")), bare)
    assert finding.what == "networks can't be compiled for cpu: there is no C++ compiler"


def test_a_folder_that_must_be_written_to_and_can_not_be_is_fatal_but_not_that_of_the_weights() -> None:
    data = Disk("data", Path("/srv"), 50 * GB, 100 * GB, is_writable=False)
    weights = replace(data, purpose="weights")
    assert only(Settings(), found(CPU, disks=(data,))).is_fatal
    assert not only(Settings(), found(CPU, disks=(weights,))).is_fatal


def test_a_disk_that_is_so_full_that_a_server_accepts_nothing_is_fatal() -> None:
    full = found(CPU, disks=(Disk("data", Path("/srv"), GB // 2, 100 * GB, is_writable=True),))
    assert "nothing new is accepted" in only(Settings(), full).what
    assert findings(Settings(server=ServerSettings(least_free_bytes=1000)), full) == []


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("somebody else", "port 80 of 0.0.0.0 is taken, and not by a fluxserve"),
        ("refused", "no server can listen at 0.0.0.0 port 80: Permission denied"),
        ("fluxserve", None),
    ],
)
def test_a_port_that_can_not_be_had_is_fatal_unless_a_fluxserve_has_it(state: Any, words: str | None) -> None:
    told = findings(Settings(), found(CPU, port=Port("0.0.0.0", 80, state, "Permission denied")))
    assert [finding.what for finding in told] == ([words] if words else [])


def test_what_stops_a_start_otherwise_is_found_too(tmp_path: Path) -> None:
    wrong = Settings(image=ImageSettings(image_qualities="low=flux9:4"))
    assert only(wrong, found(CPU)).what.startswith("image_qualities: 'low=flux9:4' is not allowed")
    nowhere = Settings(engine=EngineSettings(lora_folder=tmp_path / "loras"))
    assert not only(nowhere, found(CPU)).is_fatal


def test_the_fatal_ones_come_first() -> None:
    told = findings(
        Settings(), found(CPU, drivers=(NVIDIA,), of_machine={"built_for": None}, refusal="nothing is here")
    )
    assert [finding.is_fatal for finding in told] == [True, False]
