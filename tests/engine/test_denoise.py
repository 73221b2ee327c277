"""Our loop against diffusers' pipeline: the same latents to the last bit."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image

from fluxserve.domain.catalog import drawing_size
from fluxserve.domain.generation import Generation, ImageToImage, TextToImage
from fluxserve.engine import weights
from fluxserve.engine.conditions import Prepared, encode, prepare
from fluxserve.engine.denoise import StoppedError, denoise
from fluxserve.engine.latents import pack
from fluxserve.engine.pictures import encode_picture, picture_of
from fluxserve.engine.text import TextEncoder
from fluxserve.engine.weights import Flux
from tests.engine import oracle


def _photo() -> bytes:
    file = BytesIO()
    Image.radial_gradient("L").resize((333, 200)).convert("RGB").save(file, "PNG")
    return file.getvalue()


PHOTO = _photo()


@torch.inference_mode()
def prepared(flux: Flux, generation: Generation) -> Prepared:
    words = encode(TextEncoder(), flux, generation.kind)
    size = drawing_size(flux.row, generation.width, generation.height)
    return prepare(flux, generation, {"photo.png": PHOTO}, words, size, generation.seed)


@torch.inference_mode()
def our_latents(flux: Flux, generation: Generation) -> torch.Tensor:
    return denoise(prepared(flux, generation), lambda _step, _steps: None, lambda: False)


@pytest.mark.parametrize("steps", [1, 4, 7])
@pytest.mark.parametrize("size", [(1024, 1024), (1024, 512), (300, 1000)])
@pytest.mark.parametrize("negative", ["", "ugly"])
def test_schnell_draws_what_diffusers_draws(
    schnell: Flux, circle: Generation, steps: int, size: tuple[int, int], negative: str
) -> None:
    width, height = size
    kind = TextToImage("a red circle", negative)
    generation = replace(circle, kind=kind, width=width, height=height, steps=steps)
    expected = oracle.draw(schnell, replace(generation, guidance_scale=0.0), "latent")
    assert torch.equal(our_latents(schnell, generation), expected)


@pytest.mark.parametrize("steps", [1, 5, 25])
@pytest.mark.parametrize("size", [(1024, 1024), (1024, 512), (300, 1000)])
@pytest.mark.parametrize("negative", ["", "ugly"])
def test_dev_draws_what_diffusers_draws(
    dev: Flux, circle: Generation, steps: int, size: tuple[int, int], negative: str
) -> None:
    width, height = size
    kind = TextToImage("a red circle", negative)
    generation = replace(circle, kind=kind, width=width, height=height, steps=steps, guidance_scale=2.5)
    assert torch.equal(our_latents(dev, generation), oracle.draw(dev, generation, "latent"))


@pytest.mark.parametrize(("steps", "strength"), [(4, 0.01), (4, 0.7), (25, 0.3), (25, 1.0)])
@pytest.mark.parametrize("size", [(1024, 1024), (300, 1000)])
@pytest.mark.parametrize("negative", ["", "ugly"])
def test_dev_draws_over_a_picture_what_diffusers_draws(
    dev: Flux, circle: Generation, steps: int, strength: float, size: tuple[int, int], negative: str
) -> None:
    width, height = size
    kind = ImageToImage("a red circle", "photo.png", strength, negative)
    generation = replace(circle, kind=kind, width=width, height=height, steps=steps, guidance_scale=2.5)
    assert torch.equal(our_latents(dev, generation), oracle.draw(dev, generation, "latent", PHOTO))


def test_schnell_draws_over_a_picture_what_diffusers_draws(schnell: Flux, circle: Generation) -> None:
    generation = replace(circle, kind=ImageToImage("a red circle", "photo.png", 0.5), steps=4)
    expected = oracle.draw(schnell, replace(generation, guidance_scale=0.0), "latent", PHOTO)
    assert torch.equal(our_latents(schnell, generation), expected)


def test_the_less_noise_the_nearer_it_stays_to_the_picture(dev: Flux, circle: Generation) -> None:
    first = replace(circle, steps=10, guidance_scale=2.5)
    distances = [
        float((start - picture).square().mean())
        for strength in (0.1, 0.4, 0.7, 1.0)
        for start, picture in [_start_and_picture(dev, replace(first, kind=ImageToImage("a", "photo.png", strength)))]
    ]
    assert distances == sorted(distances)


def _start_and_picture(flux: Flux, generation: Generation) -> tuple[torch.Tensor, torch.Tensor]:
    size = drawing_size(flux.row, generation.width, generation.height)
    generator = torch.Generator("cpu").manual_seed(generation.seed)
    with torch.inference_mode():
        clean = encode_picture(flux.shared.vae, picture_of(PHOTO, size), generator, flux.device, flux.dtype)
        return prepared(flux, generation).latents, pack(clean)


def test_in_bfloat16_it_rounds_where_diffusers_does(
    mini_folder: Path, circle: Generation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "dtype_on", lambda _device: torch.bfloat16)
    dev = weights.Loader("mini", mini_folder, "cpu").load("flux1-dev")
    generation = replace(circle, kind=TextToImage("a red circle", "ugly"), steps=7, guidance_scale=2.5)
    ours = our_latents(dev, generation)
    assert ours.dtype == torch.bfloat16
    assert torch.equal(ours, oracle.draw(dev, generation, "latent"))


def test_prompt_guidance_and_negative_prompt_all_change_the_picture(dev: Flux, circle: Generation) -> None:
    first = replace(circle, guidance_scale=3.5)
    others = (
        replace(first, kind=TextToImage("a green cat")),
        replace(first, kind=TextToImage("a red circle", "ugly")),
        replace(first, guidance_scale=2.0),
        replace(first, seed=8),
    )
    drawn = our_latents(dev, first)
    assert torch.equal(our_latents(dev, first), drawn)
    for other in others:
        assert not torch.equal(our_latents(dev, other), drawn)


def test_every_step_is_told(schnell: Flux, circle: Generation) -> None:
    told: list[tuple[int, int]] = []
    with torch.inference_mode():
        denoise(prepared(schnell, replace(circle, steps=3)), lambda *step: told.append(step), lambda: False)
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_a_cancelled_drawing_stops_before_its_next_step(schnell: Flux, circle: Generation) -> None:
    told: list[int] = []
    with torch.inference_mode(), pytest.raises(StoppedError):
        denoise(
            prepared(schnell, replace(circle, steps=100)),
            lambda step, _steps: told.append(step),
            lambda: len(told) == 2,
        )
    assert told == [1, 2]
