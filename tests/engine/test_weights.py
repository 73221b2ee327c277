import gc
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fluxserve.domain.catalog import FAMILIES
from fluxserve.domain.generation import Generation, Variation
from fluxserve.engine.checkpoint import CheckpointError
from fluxserve.engine.flux import Flux
from fluxserve.engine.network.trunk import Trunk
from fluxserve.engine.plan import Plan
from fluxserve.engine.sources import Sources
from fluxserve.engine.tuning import Tuning
from fluxserve.engine.weights import Loader
from tests.engine import family
from tests.engine.test_denoise import our_latents

CPU = torch.device("cpu")


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


@pytest.fixture
def fresh(mini_folder: Path) -> Loader:
    """One of a test's own."""
    return Loader(family.MEMBERS, Sources(mini_folder), CPU, [Plan(torch.float32)])


@pytest.fixture
def variation() -> Generation:
    return Generation("flux1-dev", Variation("a cat", "photo.png"), 64, 64, steps=1, guidance_scale=3.5, seed=1)


def test_the_members_are_those_that_are_loaded(fresh: Loader) -> None:
    assert not fresh.members
    fresh.load("schnell")
    fresh.load("dev")
    assert fresh.members == ("dev", "schnell")


def test_where_there_is_room_for_two_the_one_used_longest_ago_goes(fresh: Loader) -> None:
    for member in ("schnell", "dev", "fill"):
        fresh.load(member)
    fresh.guests.room = fresh.guests.taken
    fresh.load("schnell")
    fresh.load("edit")
    assert fresh.members == ("edit", "fill", "schnell")


def test_what_a_generation_needs_stays_though_there_be_no_room(fresh: Loader, variation: Generation) -> None:
    fresh.guests.room = 0
    fresh.load("schnell")
    flux = fresh.load_for(variation)
    assert fresh.members == ("dev",)
    assert flux.image_prompt is not None
    assert fresh.load_for(variation).own is flux.own


def test_a_member_that_came_back_is_the_same(fresh: Loader) -> None:
    first = fresh.load("schnell")
    before = {name: weight.clone() for name, weight in first.own.transformer.named_parameters()}
    fresh.guests.room = 0
    fresh.load("dev")
    again = fresh.load("schnell")
    assert again.own is not first.own
    assert again.shared is first.shared
    assert all(torch.equal(weight, before[name]) for name, weight in again.own.transformer.named_parameters())


def test_a_member_that_has_gone_leaves_nothing_behind(fresh: Loader) -> None:
    gone = weakref.ref(fresh.load("schnell").own.transformer)
    fresh.guests.room = 0
    fresh.load("dev")
    assert gone() is None


def test_not_even_a_compiled_one(mini_folder: Path, circle: Generation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blocks refer to themselves, and the collector does not come by chance."""
    compile_blocks = Trunk.compile_blocks
    monkeypatch.setattr(Trunk, "compile_blocks", lambda trunk: compile_blocks(trunk, backend="eager"))
    loader = Loader(family.MEMBERS, Sources(mini_folder), CPU, [Plan(torch.float32)], Tuning(compiles=True))
    our_latents(loader.load("schnell"), circle)
    gone = weakref.ref(loader.load("schnell").own.transformer.trunk.singles[0])
    loader.guests.room = 0
    gc.disable()
    try:
        loader.load("dev")
        assert gone() is None
    finally:
        gc.enable()


def test_ahead_only_so_many_are_loaded_as_fit(fresh: Loader) -> None:
    fresh.load("schnell")
    fresh.load("dev")
    one_byte_short = replace(fresh.plan, guests=fresh.guests.taken - 1)
    another = Loader(fresh._rows, fresh._sources, CPU, [one_byte_short])
    another.load_ahead(["schnell", "dev"])
    assert list(another.members) == ["schnell"]
    another.guests.room += 1
    another.load_ahead(["schnell", "dev"])
    assert list(another.members) == ["dev", "schnell"]


def test_with_a_smaller_plan_everything_is_loaded_anew_until_there_is_none(mini_folder: Path) -> None:
    plans = [Plan(torch.float32), Plan(torch.bfloat16), Plan(torch.bfloat16, "nf4")]
    loader = Loader(family.MEMBERS, Sources(mini_folder), CPU, plans)
    for dtype in (torch.float32, torch.bfloat16, torch.bfloat16):
        flux = loader.load("dev")
        assert flux.dtype == flux.shared.vae.dtype == flux.own.transformer.image_out.weight.dtype == dtype
        is_last = loader.plan.precision == "nf4"
        assert loader.shrink() is not is_last
        assert ("dev" in loader.members) is is_last
    assert loader.plan is plans[-1]


def test_encoders_on_the_host_and_a_tiled_autoencoder_draw_the_same(
    mini_folder: Path, fresh: Loader, circle: Generation
) -> None:
    """On a CPU the host is the device: it is the way there that is tried."""
    small = Plan(torch.float32, t5="host", modulation="host", is_tiled=True)
    apart = Loader(family.MEMBERS, Sources(mini_folder), CPU, [small]).load("schnell")
    together = fresh.load("schnell")
    torch.testing.assert_close(our_latents(apart, circle), our_latents(together, circle))
    assert apart.shared.vae.use_tiling
    assert apart.shared.vae.tile_latent_min_size * 16 == apart.shared.vae.tile_sample_min_size == 512
