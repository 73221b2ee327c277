"""Workers are started by name, one a device."""

import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from fluxserve.config import EngineSettings
from fluxserve.executors.local import WorkerCommand
from fluxserve.executors.workers import mini_folder, worker_commands
from fluxserve.weights import NotHereError
from tests.weights.packages import CLASSIFIER, ENCODERS, TRANSFORMER, lay


@pytest.fixture(autouse=True)
def _no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's own weights matter here."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def test_every_device_has_a_worker_of_its_own() -> None:
    commands = worker_commands(EngineSettings(), ["cuda:0", "cuda:1"])

    assert [command.name for command in commands] == ["cuda:0", "cuda:1"]
    for command in commands:
        assert command.arguments[:3] == (sys.executable, "-m", "fluxserve.engine.worker")
        assert command.arguments[command.arguments.index("--device") + 1] == command.name


def test_the_mini_family_is_found_beside_the_sources() -> None:
    assert (mini_folder() / "shared" / "vae").is_dir()


def flux1(folder: Path, *members: str) -> EngineSettings:
    """Of a machine that has these members and what each needs."""
    for member in members:
        lay(folder / f"flux1-{member}", TRANSFORMER)
    lay(folder / "flux1-encoders", ENCODERS)
    lay(folder / "safety-classifier", CLASSIFIER)
    return EngineSettings(family="flux1", devices="cuda:0", weights_folder=folder)


def option(command: WorkerCommand, name: str) -> str:
    return command.arguments[command.arguments.index(name) + 1]


def test_members_that_few_tasks_need_are_not_loaded_at_the_start(tmp_path: Path) -> None:
    """FLUX.1's have tens of gigabytes each."""
    (command,) = worker_commands(flux1(tmp_path, "schnell", "dev", "fill-dev", "kontext-dev"), ["cuda:0"])

    assert option(command, "--members") == "dev,schnell"
    assert option(command, "--weights-folder") == str(tmp_path)


@pytest.mark.parametrize(("here", "loaded"), [("schnell", "schnell"), ("dev", "dev"), ("fill-dev", "fill")])
def test_only_members_whose_weights_are_here_are_loaded(tmp_path: Path, here: str, loaded: str) -> None:
    (command,) = worker_commands(flux1(tmp_path, here), ["cuda:0"])

    assert option(command, "--members") == loaded


@pytest.mark.parametrize("lost", ["flux1-dev", "flux1-encoders", "safety-classifier"])
def test_without_what_every_picture_needs_there_are_no_workers_but_words(tmp_path: Path, lost: str) -> None:
    settings = flux1(tmp_path, "dev")
    (tmp_path / lost).rename(tmp_path / "elsewhere")

    missing = "flux1-schnell" if lost == "flux1-dev" else lost  # any member would do: the first is named
    with pytest.raises(NotHereError, match=f"{missing} is not here: `fluxserve models pull {missing}`"):
        worker_commands(settings, ["cuda:0"])
