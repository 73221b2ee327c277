from pathlib import Path

import pytest
import torch

from fluxserve.domain.catalog import FAMILIES
from fluxserve.engine.checkpoint import CheckpointError
from fluxserve.engine.plan import Plan
from fluxserve.engine.sources import Sources
from fluxserve.engine.weights import Flux, Loader


def test_a_member_is_loaded_once(loader: Loader, dev: Flux) -> None:
    assert loader.load("dev").own is dev.own


def test_shared_parts_are_loaded_once_for_the_family(schnell: Flux, dev: Flux) -> None:
    assert schnell.shared is dev.shared
    assert schnell.own is not dev.own


def test_on_a_cpu_every_network_is_float32(dev: Flux) -> None:
    networks = (dev.own.transformer, dev.shared.vae, dev.shared.clip, dev.shared.t5)
    assert {weight.dtype for network in networks for weight in network.parameters()} == {torch.float32}


def test_networks_are_in_eval_mode_and_need_no_gradients(dev: Flux) -> None:
    for network in (dev.own.transformer, dev.shared.vae, dev.shared.clip, dev.shared.t5):
        assert not network.training
        assert not any(weight.requires_grad for weight in network.parameters())


def test_a_token_stands_for_a_square_on_the_grid_that_the_catalogue_names(dev: Flux) -> None:
    assert dev.pixels_per_token == FAMILIES["mini"]["dev"].side_multiple


def test_weights_that_are_not_safetensors_are_refused(tmp_path: Path, mini_folder: Path) -> None:
    (tmp_path / "shared").symlink_to(mini_folder / "shared")
    transformer = tmp_path / "schnell" / "transformer"
    transformer.mkdir(parents=True)
    (transformer / "config.json").write_text((mini_folder / "schnell/transformer/config.json").read_text())
    torch.save({}, transformer / "diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError, match="safetensors"):
        Loader(FAMILIES["mini"], Sources(tmp_path), torch.device("cpu"), [Plan(torch.float32)]).load("schnell")


def test_the_members_are_those_that_are_loaded(mini_folder: Path) -> None:
    loader = Loader(FAMILIES["mini"], Sources(mini_folder), torch.device("cpu"), [Plan(torch.float32)])
    assert not loader.members

    loader.load("schnell")
    loader.load("dev")
    assert loader.members == ("dev", "schnell")
