"""Workers are started by name, one a device."""

import sys

from fluxserve.config import EngineSettings
from fluxserve.executors.workers import mini_folder, worker_commands


def test_every_device_has_a_worker_of_its_own() -> None:
    commands = worker_commands(EngineSettings(), ["cuda:0", "cuda:1"])

    assert [command.name for command in commands] == ["cuda:0", "cuda:1"]
    for command in commands:
        assert command.arguments[:3] == (sys.executable, "-m", "fluxserve.engine.worker")
        assert command.arguments[command.arguments.index("--device") + 1] == command.name


def test_the_mini_family_is_found_beside_the_sources() -> None:
    assert (mini_folder() / "shared" / "vae").is_dir()


def test_members_that_few_tasks_need_are_not_loaded_at_the_start() -> None:
    """FLUX.1's have tens of gigabytes each."""
    (command,) = worker_commands(EngineSettings(family="flux1"), ["cuda:0"])
    members = command.arguments[command.arguments.index("--members") + 1]
    assert members == "dev,schnell"
