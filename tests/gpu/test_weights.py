"""What is kept elsewhere draws the same: encoders and modulations on the host, tiles, a second copy for LoRAs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fluxserve.domain.generation import Generation, Lora, TextToImage
from fluxserve.engine.decode import decode
from fluxserve.engine.loras import Loras
from fluxserve.engine.network import Precision
from fluxserve.engine.network.linear import HostLinear
from fluxserve.engine.plan import Plan
from fluxserve.engine.text import TextEncoder
from tests.engine.test_denoise import our_latents
from tests.gpu.conftest import LoaderOf

pytestmark = pytest.mark.gpu

BESIDE = Plan(torch.bfloat16)
APART = Plan(torch.bfloat16, t5="host", modulation="host", is_tiled=True)


def test_a_transformer_whose_encoder_and_modulation_are_on_the_host_draws_the_same(
    loader_of: LoaderOf, cat: Generation
) -> None:
    apart, together = (our_latents(loader_of(plan).load("dev"), cat).float() for plan in (APART, BESIDE))
    assert torch.dist(apart, together) <= 0.01 * together.norm()


@torch.inference_mode()
def test_an_encoder_on_the_host_reads_the_same_and_goes_back(loader_of: LoaderOf, device: torch.device) -> None:
    apart, together = (loader_of(plan).load("dev") for plan in (APART, BESIDE))
    for prompt in ("a red cat", "a big dog on the grass"):
        read, expected = (TextEncoder().encode(flux, prompt).sequence for flux in (apart, together))
        assert read.device == device
        assert torch.dist(read.float(), expected.float()) <= 0.01 * expected.float().norm()
        assert not any(weight.device.type == "cuda" for weight in apart.shared.t5.parameters())


def test_a_modulation_on_the_host_is_where_the_gpu_fetches_it_by_itself(loader_of: LoaderOf, gpu: torch.device) -> None:
    transformer = loader_of(APART).load("dev").own.transformer
    modulation = transformer.trunk.modulation
    assert isinstance(modulation, HostLinear)
    assert modulation.weight.device.type == "cpu"
    assert modulation.weight.is_pinned()
    others = [weight for name, weight in transformer.named_parameters() if not name.startswith("trunk.modulation")]
    assert {weight.device for weight in others} == {gpu}


@torch.inference_mode()
def test_a_picture_decoded_in_tiles_is_nearly_the_same(loader_of: LoaderOf, device: torch.device) -> None:
    rows, columns = 20, 32  # of 32x32 pixels: two tiles by two
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(1, rows * columns, 16, generator=generator).to(device, torch.bfloat16)
    tiled, whole = (
        decode(loader_of(plan).load("dev").shared.vae, latents, rows, columns)().astype(int) for plan in (APART, BESIDE)
    )
    assert tiled.shape == whole.shape == (640, 1024, 3)
    assert np.abs(tiled - whole).mean() < 2
    assert not np.array_equal(tiled, whole)


@pytest.mark.parametrize("precision", ["whole", "fp8", "nf4"])
@pytest.mark.parametrize("modulation", ["device", "host"])
def test_from_a_second_copy_a_lora_is_put_on_and_off_exactly(
    loader_of: LoaderOf, loras: Loras, cat: Generation, precision: Precision, modulation: str
) -> None:
    plan = replace(APART if modulation == "host" else BESIDE, precision=precision)
    loader, from_files = loader_of(plan), loader_of(replace(plan, guests=0))
    before = our_latents(loader.load("dev"), cat)
    drawn = []
    for lora in (Lora("1", 1.0), Lora("2", 0.5), None):
        asked = replace(cat, lora=lora)
        of_each = []
        for each in (loader, from_files):
            flux = each.load_for(asked)
            loras.put_on(flux.own, lora)
            of_each.append(our_latents(flux, asked))
        assert torch.equal(*of_each)
        drawn.append(of_each[0])
    assert torch.equal(drawn[2], before)
    assert not torch.equal(drawn[0], before)
    assert not torch.equal(drawn[1], drawn[0])
    has_spare = loader.device.type == "cuda"
    assert (loader.guests.spare is not None) is has_spare
    assert from_files.guests.spare is None


def test_a_lora_that_adds_to_a_modulation_on_the_host_is_put_on_from_a_copy_on_the_device(
    loader_of: LoaderOf, cat: Generation, tmp_path: Path
) -> None:
    layer = "transformer.transformer_blocks.0.norm1.linear"
    generator = torch.Generator().manual_seed(3)
    down, up = torch.randn(2, 16, generator=generator), torch.randn(96, 2, generator=generator)
    save_file({f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}, tmp_path / "steering.safetensors")
    asked = replace(cat, kind=TextToImage("a cat"), lora=Lora("steering", 1.0))
    flux, loras = loader_of(APART).load_for(asked), Loras(lambda name: tmp_path / f"{name}.safetensors")
    before = our_latents(flux, cat)
    loras.put_on(flux.own, asked.lora)
    assert not torch.equal(our_latents(flux, cat), before)
    loras.put_on(flux.own, None)
    assert torch.equal(our_latents(flux, cat), before)
