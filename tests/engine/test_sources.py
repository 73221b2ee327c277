"""What ships lies in its folder, all else where the weights room finds it; and what is not here is said."""

from pathlib import Path

import pytest
from huggingface_hub import constants

from fluxserve.domain.catalog import FAMILIES
from fluxserve.engine.sources import CannotDraw, file_of, path_of
from fluxserve.engine.weights import Loader
from fluxserve.weights import find


@pytest.fixture
def folder(tmp_path: Path, mini_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Somebody's weights: small networks of FLUX.1's classes, under the names of FLUX.1's."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "models"
    folder.mkdir()
    for name, place in {"flux1-schnell": "schnell", "flux1-encoders": "shared", "flux1-redux-dev": "variation"}.items():
        (folder / name).symlink_to(mini_folder / place)
    return folder


def test_flux1s_rows_are_loaded_from_a_persons_folder(folder: Path, tmp_path: Path) -> None:
    loader = Loader(FAMILIES["flux1"], tmp_path, "cpu", folder)

    assert loader.load("schnell").own.transformer.config.num_layers == 1
    with pytest.raises(CannotDraw, match=r"^flux1-dev is not on this server$"):
        loader.load("dev")


def test_the_folders_that_the_library_writes_are_whole(folder: Path) -> None:
    for name in ("flux1-schnell", "flux1-encoders", "flux1-redux-dev"):
        assert find(name, folder) == folder / name


def test_a_single_file_is_not_read_yet_and_that_is_said(folder: Path, tmp_path: Path) -> None:
    (folder / "flux1-dev.gguf").touch()

    with pytest.raises(CannotDraw, match="flux1-dev is a single file here"):
        Loader(FAMILIES["flux1"], tmp_path, "cpu", folder).load("dev")


def test_what_callers_read_names_no_path(folder: Path, tmp_path: Path) -> None:
    for source in ("annotator-openpose/yolox_l.onnx", "flux1-dev", "moebius-style"):
        with pytest.raises(CannotDraw) as told:
            file_of(source, tmp_path, folder)
        assert "/" not in str(told.value)


def test_what_ships_is_in_its_folder(tmp_path: Path) -> None:
    assert path_of("mini/shared", tmp_path, None) == tmp_path / "shared"
