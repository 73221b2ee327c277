import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin make a busy machine crawl

import pytest
import torch

from fluxserve.domain.catalog import ANNOTATORS
from fluxserve.domain.generation import Generation, TextToImage
from fluxserve.engine.annotators import Annotators
from fluxserve.engine.engine import Engine
from fluxserve.engine.flux import Flux
from fluxserve.engine.loras import Loras, finder
from fluxserve.engine.plan import Plan
from fluxserve.engine.sources import Sources
from fluxserve.engine.weights import Loader
from tests.engine import family


@pytest.fixture(scope="session")
def mini_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mini")
    family.build(folder)
    return folder


@pytest.fixture(scope="session")
def loader(mini_folder: Path) -> Loader:
    return Loader(family.MEMBERS, Sources(mini_folder), torch.device("cpu"), [Plan(torch.float32)])


@pytest.fixture
def engine(loader: Loader, mini_folder: Path, tmp_path: Path) -> Engine:
    annotators = Annotators(ANNOTATORS["mini"], Sources(mini_folder), loader.device)
    return Engine(loader, Loras(finder({}, Sources(tmp_path), tmp_path)), annotators, safety=None)


@pytest.fixture(scope="session")
def schnell(loader: Loader) -> Flux:
    return loader.load("schnell")


@pytest.fixture(scope="session")
def dev(loader: Loader) -> Flux:
    return loader.load("dev")


@pytest.fixture(scope="session")
def fill(loader: Loader) -> Flux:
    return loader.load("fill")


@pytest.fixture
def circle() -> Generation:
    """A generation to vary."""
    return Generation("flux1-schnell", TextToImage("a red circle"), 256, 256, steps=2, guidance_scale=None, seed=7)
