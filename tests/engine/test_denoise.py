"""Our loop and our networks against diffusers' pipelines: the same latents, but for the rounding of float32."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from fluxserve.domain.catalog import drawing_size
from fluxserve.domain.generation import (
    Control,
    Edit,
    Generation,
    ImageToImage,
    Inpaint,
    Kind,
    Outpaint,
    TextToImage,
    Variation,
)
from fluxserve.engine.conditions import Prepared, encode, prepare
from fluxserve.engine.denoise import StoppedError, denoise
from fluxserve.engine.flux import Flux
from fluxserve.engine.latents import pack
from fluxserve.engine.pictures import latents_of, look, picture_of
from fluxserve.engine.plan import Plan
from fluxserve.engine.seen import Seen
from fluxserve.engine.sources import Sources
from fluxserve.engine.text import TextEncoder
from fluxserve.engine.weights import Loader
from tests.engine import oracle
from tests.engine.family import MEMBERS


def png(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _hole() -> Image.Image:
    mask = Image.new("L", (333, 200))
    ImageDraw.Draw(mask).ellipse((100, 20, 300, 170), fill=255)
    return mask


AGREED = 1e-5  # of latents, whose own spread is about 1
PHOTO = png(Image.radial_gradient("L").resize((333, 200)).convert("RGB"))
IMAGES = {"photo.png": PHOTO, "mask.png": png(_hole())}


@torch.inference_mode()
def prepared(flux: Flux, generation: Generation) -> Prepared:
    words = encode(TextEncoder(), flux, generation.kind)
    size = drawing_size(flux.row, generation.width, generation.height)
    control = generation.control
    annotated = oracle.ANNOTATORS.annotate(control.type, IMAGES[control.image], size) if control else None
    return prepare(flux, generation, IMAGES, words, Seen(), annotated, size, generation.seed)


@torch.inference_mode()
def our_latents(flux: Flux, generation: Generation) -> torch.Tensor:
    return denoise(prepared(flux, generation), 1, lambda *_: None, lambda: False)


def assert_close(ours: torch.Tensor, expected: torch.Tensor) -> None:
    assert ours.shape == expected.shape
    assert (ours - expected).abs().max() <= AGREED


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
    assert_close(our_latents(schnell, generation), expected)


@pytest.mark.parametrize("steps", [1, 5, 25])
@pytest.mark.parametrize("size", [(1024, 1024), (1024, 512), (300, 1000)])
@pytest.mark.parametrize("negative", ["", "ugly"])
def test_dev_draws_what_diffusers_draws(
    dev: Flux, circle: Generation, steps: int, size: tuple[int, int], negative: str
) -> None:
    width, height = size
    kind = TextToImage("a red circle", negative)
    generation = replace(circle, kind=kind, width=width, height=height, steps=steps, guidance_scale=2.5)
    assert_close(our_latents(dev, generation), oracle.draw(dev, generation, "latent"))


@pytest.mark.parametrize(("steps", "strength"), [(4, 0.01), (4, 0.7), (25, 0.3), (25, 1.0)])
@pytest.mark.parametrize("size", [(1024, 1024), (300, 1000)])
@pytest.mark.parametrize("negative", ["", "ugly"])
def test_dev_draws_over_a_picture_what_diffusers_draws(
    dev: Flux, circle: Generation, steps: int, strength: float, size: tuple[int, int], negative: str
) -> None:
    width, height = size
    kind = ImageToImage("a red circle", "photo.png", strength, negative)
    generation = replace(circle, kind=kind, width=width, height=height, steps=steps, guidance_scale=2.5)
    assert_close(our_latents(dev, generation), oracle.draw(dev, generation, "latent", IMAGES))


def test_schnell_draws_over_a_picture_what_diffusers_draws(schnell: Flux, circle: Generation) -> None:
    generation = replace(circle, kind=ImageToImage("a red circle", "photo.png", 0.5), steps=4)
    expected = oracle.draw(schnell, replace(generation, guidance_scale=0.0), "latent", IMAGES)
    assert_close(our_latents(schnell, generation), expected)


@pytest.mark.parametrize("steps", [1, 25])
@pytest.mark.parametrize(
    "kind", [Inpaint("a cat", "photo.png", "mask.png"), Outpaint("a cat", "photo.png", 90, 0, 7, 200)]
)
def test_fill_draws_what_diffusers_draws(fill: Flux, circle: Generation, steps: int, kind: Kind) -> None:
    generation = replace(circle, kind=kind, width=423, height=407, steps=steps, guidance_scale=30.0)
    assert_close(our_latents(fill, generation), oracle.draw(fill, generation, "latent", IMAGES))


@pytest.mark.parametrize("steps", [1, 25])
@pytest.mark.parametrize("size", [(1024, 1024), (300, 1000)])
def test_a_variation_is_what_diffusers_draws(
    loader: Loader, circle: Generation, steps: int, size: tuple[int, int]
) -> None:
    width, height = size
    kind = Variation("a cat", "photo.png")
    generation = replace(
        circle, model="flux1-dev", kind=kind, width=width, height=height, steps=steps, guidance_scale=2.5
    )
    flux = loader.load_for(generation)
    assert_close(our_latents(flux, generation), oracle.draw(flux, generation, "latent", IMAGES))


@pytest.mark.parametrize("steps", [1, 25])
@pytest.mark.parametrize("size", [(1024, 1024), (300, 1000)])
@pytest.mark.parametrize("negative", ["", "ugly"])
def test_an_edit_is_what_diffusers_draws(
    loader: Loader, circle: Generation, steps: int, size: tuple[int, int], negative: str
) -> None:
    width, height = size
    kind = Edit("a red cat", "photo.png", negative)
    generation = replace(circle, kind=kind, width=width, height=height, steps=steps, guidance_scale=2.5)
    flux = loader.load_for(generation)
    assert_close(our_latents(flux, generation), oracle.draw(flux, generation, "latent", IMAGES))


@pytest.mark.parametrize("steps", [1, 25])
@pytest.mark.parametrize(
    "kind", [TextToImage("a cat"), TextToImage("a cat", "ugly"), ImageToImage("a cat", "photo.png", 0.6)]
)
def test_with_a_control_it_draws_what_diffusers_draws(
    loader: Loader, circle: Generation, steps: int, kind: Kind
) -> None:
    control = Control("canny", "mask.png", strength=0.7)
    generation = replace(
        circle, model="flux1-dev", kind=kind, height=200, steps=steps, guidance_scale=2.5, control=control
    )
    flux = loader.load_for(generation)
    ours = our_latents(flux, generation)
    assert_close(ours, oracle.draw(flux, generation, "latent", IMAGES))
    assert not torch.equal(ours, our_latents(flux, replace(generation, control=None)))


EVERY_KIND: list[Kind] = [
    TextToImage("a cat"),
    ImageToImage("a cat", "photo.png", 0.7),
    Inpaint("a cat", "photo.png", "mask.png"),
    Outpaint("a cat", "photo.png", 0, 0, 0, 90),
    Variation("a cat", "photo.png"),
    Edit("a cat", "photo.png"),
]


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_a_negative_prompt_changes_what_every_kind_draws(loader: Loader, circle: Generation, kind: Kind) -> None:
    generation = replace(circle, model="flux1-dev", kind=kind, guidance_scale=3.5)
    ugly = replace(generation, kind=replace(kind, negative_prompt="ugly"))
    flux = loader.load_for(generation)
    assert not torch.equal(our_latents(flux, generation), our_latents(flux, ugly))


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
        clean = latents_of(
            flux.shared.vae, look(flux.shared.vae, picture_of(PHOTO, size), flux.device, flux.dtype), generator
        )
        return prepared(flux, generation).latents, pack(clean)


def test_in_bfloat16_it_is_no_further_from_float32_than_diffusers(
    mini_folder: Path, dev: Flux, circle: Generation
) -> None:
    generation = replace(circle, kind=TextToImage("a red circle", "ugly"), steps=1, guidance_scale=2.5)
    exact = our_latents(dev, generation)
    rounded = Loader(MEMBERS, Sources(mini_folder), torch.device("cpu"), [Plan(torch.bfloat16)]).load("dev")
    ours = our_latents(rounded, generation)
    assert ours.dtype == torch.bfloat16
    theirs = oracle.draw(rounded, generation, "latent")
    assert torch.dist(ours.float(), exact) <= 1.1 * torch.dist(theirs.float(), exact)


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
        denoise(
            prepared(schnell, replace(circle, steps=3)),
            1,
            lambda step, steps, _estimate: told.append((step, steps)),
            lambda: False,
        )
    assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("kind", [TextToImage("a cat"), ImageToImage("a cat", "photo.png", 0.6)])
def test_where_the_way_is_straight_every_step_estimates_its_end(dev: Flux, circle: Generation, kind: Kind) -> None:
    first = prepared(dev, replace(circle, kind=kind, steps=5, guidance_scale=2.5))
    level = float(first.timesteps[0]) / 1000
    clean = torch.rand(first.latents.shape)
    grain = (first.latents - (1 - level) * clean) / level
    estimates: list[torch.Tensor] = []
    straight = replace(first, velocity=lambda _latents, _timestep: grain - clean)
    end = denoise(straight, 1, lambda _step, _steps, estimate: estimates.append(estimate()), lambda: False)
    assert len(estimates) == len(first.timesteps)
    for estimate in (*estimates, end):
        torch.testing.assert_close(estimate, clean, rtol=0, atol=1e-5)


def test_a_cancelled_drawing_stops_before_its_next_step(schnell: Flux, circle: Generation) -> None:
    told: list[int] = []
    with torch.inference_mode(), pytest.raises(StoppedError):
        denoise(
            prepared(schnell, replace(circle, steps=100)),
            1,
            lambda step, *_: told.append(step),
            lambda: len(told) == 2,
        )
    assert told == [1, 2]
