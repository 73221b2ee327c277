"""What ships lies in its folder, all else where the weights room finds it; and what is not here is said."""

from pathlib import Path

import gguf
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from fluxserve.domain.catalog import FAMILIES
from fluxserve.engine.plan import Plan
from fluxserve.engine.sources import CannotDraw, Sources
from fluxserve.engine.weights import Loader
from fluxserve.weights import find
from tests.engine import checkpoints


@pytest.fixture
def folder(tmp_path: Path, mini_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Somebody's weights: small networks of FLUX.1's classes, under the names of FLUX.1's."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "models"
    folder.mkdir()
    for name, place in {"flux1-schnell": "schnell", "flux1-encoders": "shared", "flux1-redux-dev": "variation"}.items():
        (folder / name).symlink_to(mini_folder / place)
    return folder


def loader_of(folder: Path, mini_folder: Path) -> Loader:
    return Loader(FAMILIES["flux1"], Sources(mini_folder, folder), torch.device("cpu"), [Plan(torch.float32)])


def test_flux1s_rows_are_loaded_from_a_persons_folder(folder: Path, tmp_path: Path) -> None:
    loader = loader_of(folder, tmp_path)

    assert loader.load("schnell").own.checkpoint.shape.doubles == 1
    with pytest.raises(CannotDraw, match=r"^flux1-dev is not on this server$"):
        loader.load("dev")


def test_the_folders_that_the_library_writes_are_whole(folder: Path) -> None:
    for name in ("flux1-schnell", "flux1-encoders", "flux1-redux-dev"):
        assert find(name, folder) == folder / name


@pytest.mark.parametrize("ending", [".safetensors", ".gguf"])
@pytest.mark.parametrize("member", ["dev", "schnell"])
def test_a_single_file_is_a_member_too(folder: Path, tmp_path: Path, member: str, ending: str) -> None:
    state = checkpoints.as_its_makers_write_it(checkpoints.network(takes_guidance=member == "dev"))
    (folder / "flux1-schnell").unlink()
    path = folder / f"flux1-{member}{ending}"
    if ending == ".gguf":
        checkpoints.write_gguf(path, state, gguf.GGMLQuantizationType.Q8_0)
    else:
        save_file({name: tensor.clone() for name, tensor in state.items()}, path)

    own = loader_of(folder, tmp_path).load(member).own

    assert own.checkpoint.path == path
    assert own.scheduler.config.use_dynamic_shifting is (member == "dev")
    assert own.scheduler.config.shift == (3.0 if member == "dev" else 1.0)


def test_what_callers_read_names_no_path(folder: Path, tmp_path: Path) -> None:
    for source in ("annotator-openpose/yolox_l.onnx", "flux1-dev", "moebius-style"):
        with pytest.raises(CannotDraw) as told:
            Sources(tmp_path, folder).file(source)
        assert "/" not in str(told.value)


def test_what_ships_is_in_its_folder(tmp_path: Path) -> None:
    assert Sources(tmp_path).path("mini/shared") == tmp_path / "shared"
