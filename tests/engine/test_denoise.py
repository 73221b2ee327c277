"""Our loop against diffusers' pipeline: the same latents to the last bit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fluxserve.domain.catalog import drawing_size
from fluxserve.domain.generation import Generation, TextToImage
from fluxserve.engine import weights
from fluxserve.engine.conditions import Prepared, encode, prepare
from fluxserve.engine.denoise import StoppedError, denoise
from fluxserve.engine.text import TextEncoder
from fluxserve.engine.weights import Flux
from tests.engine import oracle


@torch.inference_mode()
def prepared(flux: Flux, generation: Generation) -> Prepared:
    words = encode(TextEncoder(), flux, generation.kind)
    size = drawing_size(flux.row, generation.width, generation.height)
    return prepare(flux, generation, words, size, generation.seed)


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
