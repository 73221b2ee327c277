"""What is drawn on a GPU is what is drawn on a CPU, but for rounding, and nothing waits that need not."""

from dataclasses import replace

import pytest
import torch

from fluxserve.domain.generation import Control, Generation, ImageToImage, Inpaint, Kind, TextToImage
from fluxserve.engine.conditions import encode, prepare
from fluxserve.engine.decode import decode
from fluxserve.engine.denoise import denoise
from fluxserve.engine.plan import Plan
from fluxserve.engine.seen import Seen
from fluxserve.engine.text import TextEncoder
from fluxserve.engine.tuning import Tuning
from tests.engine import oracle
from tests.engine.test_denoise import EVERY_KIND, IMAGES, our_latents
from tests.gpu.conftest import LoaderOf

pytestmark = pytest.mark.gpu

CPU = torch.device("cpu")
CONTROL = Control("canny", "mask.png", strength=0.7)


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_a_seed_draws_nearly_the_same_picture_as_on_a_cpu(
    loader_of: LoaderOf, cat: Generation, device: torch.device, kind: Kind
) -> None:
    generation = replace(cat, kind=kind)
    here, there = (our_latents(loader_of(on=on).load_for(generation), generation) for on in (device, CPU))
    assert here.device == device
    assert torch.dist(here.cpu(), there) <= 0.01 * there.norm()


@pytest.mark.parametrize(
    ("kind", "control"),
    [
        (TextToImage("a red circle", "ugly"), None),
        (ImageToImage("a cat", "photo.png", 0.7), None),
        (Inpaint("a cat", "photo.png", "mask.png"), None),
        (TextToImage("a cat"), CONTROL),
    ],
)
def test_in_bfloat16_it_is_no_further_from_float32_than_diffusers(
    loader_of: LoaderOf, cat: Generation, kind: Kind, control: Control | None
) -> None:
    generation = replace(cat, kind=kind, control=control, steps=1)
    exact = our_latents(loader_of(on=CPU).load_for(generation), generation)
    rounded = loader_of(Plan(torch.bfloat16)).load_for(generation)
    ours, theirs = our_latents(rounded, generation), oracle.draw(rounded, generation, "latent", IMAGES)
    assert ours.dtype == torch.bfloat16
    assert torch.dist(ours.cpu().float(), exact) <= 1.1 * torch.dist(theirs.cpu().float(), exact)


@pytest.mark.parametrize("replays", [False, True])
@torch.inference_mode()
def test_from_words_to_pixels_on_their_way_nothing_waits_for_the_gpu(
    loader_of: LoaderOf, cat: Generation, gpu: torch.device, replays: bool
) -> None:
    flux, encoder = loader_of(Plan(torch.bfloat16), tuning=Tuning(replays=replays)).load("dev"), TextEncoder()

    def draw(kind: Kind) -> None:
        generation = replace(cat, kind=kind)
        words = encode(encoder, flux, kind)
        prepared = prepare(flux, generation, {}, words, Seen(), None, (256, 256), generation.seed)
        decode(flux.shared.vae, denoise(prepared, 1, lambda *_: None, lambda: False), 8, 8)

    draw(TextToImage("a green dog", "ugly"))  # what comes once may wait: kernels are chosen, a step recorded
    torch.cuda.synchronize(gpu)
    torch.cuda.set_sync_debug_mode("error")
    try:
        draw(TextToImage("a blue circle", "little"))
    finally:
        torch.cuda.set_sync_debug_mode("default")
