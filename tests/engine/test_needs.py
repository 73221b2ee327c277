"""How much is needed is known before anything is loaded, and is what is then in use."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from torch._subclasses.fake_tensor import FakeTensorMode

from fluxserve.domain.catalog import FAMILIES, MOST_PIXELS
from fluxserve.domain.device import Device
from fluxserve.domain.generation import Generation, TextToImage
from fluxserve.domain.speeds import SPEEDS
from fluxserve.engine.conditions import encode, prepare
from fluxserve.engine.decode import decode
from fluxserve.engine.denoise import denoise
from fluxserve.engine.needs import FLUX1, bytes_of, needs_of
from fluxserve.engine.network import ControlNetwork, Keeping, Precision, Residuals, Shape, Told, Transformer
from fluxserve.engine.plan import MOST_STEPS, PROMPTS_KEPT, plans
from fluxserve.engine.seen import Seen
from fluxserve.engine.sources import CannotDraw, Sources
from fluxserve.engine.text import TextEncoder
from fluxserve.engine.weights import Loader
from fluxserve.executors.workers import mini_folder
from tests.engine.tensor_memory import Followed, kept
from tests.engine.test_plan import SHAPE

CPU = torch.device("cpu")
LARGE = Device("cpu", "a CPU", 0, 10**12, has_bfloat16=True)


def test_of_the_family_that_ships_a_plan_foresees_what_is_in_use() -> None:
    rows, sources = FAMILIES["mini"], Sources(mini_folder())
    plan = plans(needs_of(rows, sources), LARGE, SPEEDS["exact"])[0]
    loader, encoder = Loader(rows, sources, CPU, [plan]), TextEncoder()
    flux = loader.load("dev")
    asked = Generation("flux1-dev", TextToImage("a cat"), 1024, 1024, MOST_STEPS, guidance_scale=3.5, seed=1)
    with torch.inference_mode(), Followed() as followed:
        for number in range(PROMPTS_KEPT):
            encoder.encode(flux, f"cat number {number}")
        words = encode(encoder, flux, asked.kind)
        prepared = prepare(flux, asked, {}, words, Seen(), None, (256, 256), asked.seed)
        decode(flux.shared.vae, denoise(prepared, 1, lambda *_: None, lambda: False), 8, 8)
    in_use = kept(flux.own.transformer, flux.shared.vae, flux.shared.clip, flux.shared.t5) + followed.peak
    assert plan.peak == pytest.approx(in_use, rel=0.1)
    assert loader.guests.taken == kept(flux.own.transformer)


@pytest.mark.parametrize("side", [1024, 1440])
def test_of_flux1_at_full_size_a_transformer_works_in_the_room_that_is_foreseen(side: int) -> None:
    """Followed with tensors that have sizes but no numbers."""
    tokens, words = (side // 16) ** 2, 512
    with FakeTensorMode(), torch.inference_mode():
        network = Transformer(SHAPE, Keeping(CPU, torch.bfloat16))
        modulation = torch.empty(MOST_STEPS, 344, 3072, dtype=torch.bfloat16)
        told = Told(torch.empty(1, words, 3072, dtype=torch.bfloat16), modulation, torch.empty(2, words + tokens, 64))
        shown = torch.empty(1, tokens, 64, dtype=torch.bfloat16)
        with Followed() as followed:
            network(shown, told, 3, Residuals(), tokens)
    foreseen = 19 * (tokens + words) * 3072 * 2
    assert foreseen == pytest.approx(followed.peak, rel=0.1)


def test_of_flux1_at_full_size_the_autoencoder_works_in_the_room_that_is_foreseen() -> None:
    with FakeTensorMode(), torch.inference_mode():
        torch.set_default_dtype(torch.bfloat16)
        try:
            vae = AutoencoderKL(
                block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, latent_channels=16,
                use_quant_conv=False, use_post_quant_conv=False,
            )  # fmt: skip
            latents = torch.empty(1, 16, 128, 128)
        finally:
            torch.set_default_dtype(torch.float32)
        with Followed() as followed:
            vae.decode(latents)
    assert 6 * FLUX1.channels * MOST_PIXELS * 2 == pytest.approx(followed.peak, rel=0.1)


@pytest.mark.parametrize("kind", [Transformer, ControlNetwork])
@pytest.mark.parametrize("precision", ["whole", "fp8", "nf4"])
@pytest.mark.parametrize("from_host", [False, True])
def test_a_networks_size_is_known_before_it_is_made(
    kind: type[Transformer] | type[ControlNetwork], precision: Precision, from_host: bool
) -> None:
    shape = Shape(64, 64, 64, 32, 2, 64, 2, 3, takes_guidance=True, axes=(16, 24, 24))
    keeping = Keeping(CPU, torch.bfloat16, precision, modulates_from_host=from_host)
    network = kind(shape, keeping)
    on_host = kept(network.trunk.modulation) if from_host else 0
    assert bytes_of(kind, shape, keeping) == kept(network) - on_host


def test_where_no_member_is_there_is_nothing_to_plan_for(tmp_path: Path) -> None:
    with pytest.raises(CannotDraw, match="no member of the family"):
        needs_of(FAMILIES["mini"], Sources(tmp_path))


def test_only_members_that_are_here_are_counted(mini_folder: Path, tmp_path: Path) -> None:
    rows = FAMILIES["mini"]
    (tmp_path / "shared").symlink_to(mini_folder / "shared")
    (tmp_path / "schnell").symlink_to(mini_folder / "schnell")
    of_one = needs_of(rows, Sources(tmp_path))
    assert of_one == needs_of({"schnell": rows["schnell"]}, Sources(mini_folder))
    assert of_one.most_tokens < needs_of(rows, Sources(mini_folder)).most_tokens
