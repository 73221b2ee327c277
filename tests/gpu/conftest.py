"""What the tests of a GPU stand on. GPU_TESTS_ON=cpu rehearses, on a CPU, all that has a meaning there."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch, as everywhere

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fluxserve.domain.generation import Generation, TextToImage
from fluxserve.engine.engine import Engine
from fluxserve.engine.loras import Loras
from fluxserve.engine.network.replay import Recording, Recordings, Step
from fluxserve.engine.plan import Plan
from fluxserve.engine.safety import Safety
from fluxserve.engine.sources import Sources
from fluxserve.engine.tuning import Tuning
from fluxserve.engine.weights import Loader
from tests.engine import family, oracle
from tests.engine.test_loras import diffusers_layout

ON = torch.device(os.environ.get("GPU_TESTS_ON", "cuda:0"))
LoaderOf = Callable[..., Loader]
EngineOf = Callable[..., Engine]


@pytest.fixture(scope="session")
def device() -> torch.device:
    if ON.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch finds no GPU here")
    return ON


@pytest.fixture(autouse=True)
def _rehearsed(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU a graph is the step itself, run again on what lies where a graph would look."""

    def record(_: Recordings, step: Step, shown: list[torch.Tensor]) -> Recording:
        answers = step(shown)

        def replay() -> None:
            for place, answer in zip(answers, step(shown), strict=True):
                place.copy_(answer)

        return Recording(shown, answers, replay)

    if device.type == "cpu":
        monkeypatch.setattr(Recordings, "_record", record)


@pytest.fixture
def gpu(device: torch.device) -> Iterator[torch.device]:
    """One that is no rehearsal."""
    if device.type != "cuda":
        pytest.skip("only a GPU does this")
    yield device
    torch.cuda.synchronize(device)


@pytest.fixture(scope="session")
def mini_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mini")
    family.build(folder)
    return folder


@pytest.fixture(scope="session")
def lora_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loras")
    for seed in (1, 2):
        save_file(diffusers_layout(seed), folder / f"{seed}.safetensors")
    return folder


@pytest.fixture(scope="session")
def loras(lora_folder: Path) -> Loras:
    return Loras(lambda name: lora_folder / f"{name}.safetensors")


@pytest.fixture
def loader_of(mini_folder: Path, device: torch.device) -> LoaderOf:
    """(plans, tuning, device) -> one of a test's own, of the untaught family."""

    def loader(*plans: Plan, tuning: Tuning | None = None, on: torch.device = device) -> Loader:
        return Loader(family.MEMBERS, Sources(mini_folder), on, plans or [Plan(torch.float32)], tuning)

    return loader


@pytest.fixture
def engine_of(loras: Loras) -> EngineOf:
    def engine(loader: Loader, safety: Safety | None = None) -> Engine:
        return Engine(loader, loras, oracle.ANNOTATORS, safety)

    return engine


@pytest.fixture
def cat() -> Generation:
    """A generation to vary."""
    words = TextToImage("a red cat", "ugly")
    return Generation("flux1-dev", words, 256, 256, steps=3, guidance_scale=2.5, seed=7)


@pytest.fixture
def wide(cat: Generation) -> Generation:
    """One of another size and another seed."""
    return replace(cat, width=512, height=128, seed=8)
