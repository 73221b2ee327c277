"""A picture that was seen lately is not encoded again, and draws the same as one that was not."""

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from fluxserve.domain.generation import (
    Control,
    Edit,
    Generation,
    ImageToImage,
    Inpaint,
    Kind,
    Variation,
)
from fluxserve.engine.engine import Engine
from fluxserve.engine.weights import Loader
from tests.engine.test_denoise import IMAGES

KINDS: dict[str, tuple[Kind, Control | None]] = {
    "over a picture": (ImageToImage("a cat", "photo.png", 0.6), None),
    "a fill": (Inpaint("a cat", "photo.png", "mask.png"), None),
    "an edit": (Edit("a cat", "photo.png"), None),
    "a variation": (Variation("a cat", "photo.png"), None),
    "along a control": (ImageToImage("a cat", "photo.png", 0.6), Control("canny", "photo.png", 0.7)),
}


@pytest.fixture
def counted(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was encoded, while a test runs."""
    encoded: list[str] = []
    dev = loader.load("dev")
    prompt = loader.load_for(generation("a variation")).image_prompt
    assert prompt is not None
    for name, network, verb in (("latents", dev.shared.vae, "encode"), ("words", prompt.encoder, "forward")):
        really = getattr(network, verb)

        def counting(*given: object, name: str = name, really: object = really, **named: object) -> object:
            encoded.append(name)
            return really(*given, **named)  # type: ignore[operator]

        monkeypatch.setattr(network, verb, counting)
    return encoded


def generation(kind: str, seed: int = 1, prompt: str = "a cat") -> Generation:
    what, control = KINDS[kind]
    what = replace(what, prompt=prompt)
    return Generation("flux1-dev", what, 256, 256, steps=2, guidance_scale=3.5, seed=seed, control=control)


def draw(engine: Engine, asked: Generation, photo: bytes = IMAGES["photo.png"]) -> np.ndarray:
    images = {**IMAGES, "photo.png": photo}
    (drawn,) = engine.generate(asked, images, lambda *_: None, lambda: False)
    return drawn.pixels


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_that_comes_back_is_encoded_once(engine: Engine, counted: list[str], kind: str) -> None:
    first = draw(engine, generation(kind))
    once = len(counted)
    assert once >= 1
    again = draw(engine, generation(kind))
    draw(engine, generation(kind, seed=2))
    draw(engine, generation(kind, prompt="a dog"))
    assert len(counted) == once
    assert np.array_equal(first, again)


@pytest.mark.parametrize("kind", KINDS)
def test_another_picture_is_encoded_too(engine: Engine, counted: list[str], kind: str) -> None:
    other = BytesIO()
    Image.linear_gradient("L").resize((333, 200)).convert("RGB").save(other, "PNG")
    draw(engine, generation(kind))
    once = len(counted)
    draw(engine, generation(kind), other.getvalue())
    assert len(counted) == 2 * once


def test_a_fill_with_another_mask_is_encoded_anew(engine: Engine, counted: list[str]) -> None:
    draw(engine, generation("a fill"))
    whole = BytesIO()
    Image.new("L", (333, 200), 255).save(whole, "PNG")
    images = {**IMAGES, "mask.png": whole.getvalue()}
    engine.generate(generation("a fill"), images, lambda *_: None, lambda: False)
    assert len(counted) == 2


def test_at_another_size_it_is_encoded_anew(engine: Engine, counted: list[str]) -> None:
    draw(engine, generation("over a picture"))
    draw(engine, replace(generation("over a picture"), width=512, height=256))
    assert len(counted) == 2


def test_pictures_of_one_job_share_what_was_seen(engine: Engine, counted: list[str]) -> None:
    asked = replace(generation("over a picture"), model="flux1-schnell", count=3)
    drawn = engine.generate(asked, IMAGES, lambda *_: None, lambda: False)
    assert counted == ["latents"]
    assert not torch.equal(torch.from_numpy(drawn[0].pixels), torch.from_numpy(drawn[1].pixels))
