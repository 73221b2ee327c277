"""What a machine can draw on is found by asking, and only where there may be something to find."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fluxserve.config import EngineSettings
from fluxserve.domain.device import Device
from fluxserve.executors import devices
from fluxserve.executors.devices import FinderError, best_of, can_have_gpu, devices_of, find_devices
from fluxserve.executors.workers import worker_commands
from tests.executors.scripted_finder import APPLE, CPU, GPUS, MACHINES

pytestmark = pytest.mark.anyio


Script = Callable[[str], None]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    """Has the finder do as told."""

    def script(behaviour: str) -> None:
        command = (sys.executable, "-m", "tests.executors.scripted_finder", behaviour)
        monkeypatch.setattr(devices, "FINDER", command)

    return script


@pytest.mark.parametrize("machine", MACHINES)
async def test_what_the_finder_tells_is_what_there_is(machine: str, script: Script) -> None:
    script(machine)

    assert await find_devices() == MACHINES[machine]


async def test_the_finder_of_the_engine_finds_the_cpu_at_least() -> None:
    cpu = (await find_devices())[-1]

    assert cpu.name == "cpu"
    assert 0 < cpu.free_bytes <= cpu.total_bytes
    assert cpu.cores >= 1


@pytest.mark.parametrize(
    ("found", "chosen"),
    [([*GPUS, CPU], GPUS), ([APPLE, CPU], [APPLE]), ([CPU], [CPU])],
    ids=["every GPU", "Apple's", "the CPU, where there is nothing else"],
)
def test_the_best_is_drawn_on(found: list[Device], chosen: list[Device]) -> None:
    assert best_of(found) == chosen


async def test_by_default_each_gpu_has_a_worker_in_the_pool_that_the_settings_name_for_it(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    script("four")
    monkeypatch.setattr(devices, "DRIVERS", ("dev/null",))
    settings = EngineSettings(pool="public,cuda:1=somebody")

    commands = worker_commands(settings, await devices_of(settings.devices))

    names = ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]
    assert [command.name for command in commands] == names
    assert [command.pool for command in commands] == ["public", "somebody", "public", "public"]
    assert [command.arguments[command.arguments.index("--device") + 1] for command in commands] == names


async def test_devices_that_are_named_are_taken_at_their_word() -> None:
    assert await devices_of("cuda:0, cuda:1,") == ["cuda:0", "cuda:1"]


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac has one")
async def test_where_no_gpu_can_be_nothing_is_asked(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    script("dies")
    monkeypatch.setattr(devices, "DRIVERS", ())

    assert await devices_of("auto") == ["cpu"]


@pytest.mark.parametrize("trace", ["dev/nvidia0", "proc/driver/nvidia", "dev/dxg", "dev/kfd"])
def test_a_gpu_can_be_where_a_driver_has_left_a_trace(trace: str, tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "null").touch()
    assert can_have_gpu(tmp_path) == (sys.platform == "darwin")

    (tmp_path / trace).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / trace).touch()
    assert can_have_gpu(tmp_path)


@pytest.mark.parametrize(
    ("behaviour", "why"),
    [("dies", "ended with status 3"), ("mumbles", "ended with status 0"), ("hangs", "did not answer within 2 s")],
)
async def test_a_finder_that_fails_says_what_can_be_done(
    behaviour: str, why: str, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(behaviour)
    if behaviour == "hangs":
        monkeypatch.setattr(devices, "FIND_SECONDS", 2.0)

    with pytest.raises(FinderError, match=f"its finder {why}.*; FLUXSERVE_DEVICES names it"):
        await find_devices()
