"""Previews resemble the pictures they foretell, and change nothing about them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from fluxserve.domain.catalog import ANNOTATORS, FAMILIES
from fluxserve.domain.generation import Generation, TextToImage
from fluxserve.engine import preview
from fluxserve.engine.annotators import Annotators
from fluxserve.engine.engine import Engine
from fluxserve.engine.finish import Drawn
from fluxserve.engine.latents import pack
from fluxserve.engine.loras import Loras, finder
from fluxserve.engine.pictures import latents_of, look, picture_from
from fluxserve.engine.plan import Plan
from fluxserve.engine.png import Pixels, decode_png
from fluxserve.engine.preview import Previews, Projection
from fluxserve.engine.sources import Sources
from fluxserve.engine.weights import Loader

TAUGHT = Path(__file__).parents[2] / "models" / "mini"
STEPS = 25


def drawn_with_previews(engine: Engine, generation: Generation) -> tuple[list[Drawn], list[bytes]]:
    """The pictures, and a preview of every step."""
    previews: list[bytes] = []
    drawn = engine.generate(generation, {}, lambda _step, _steps, make: previews.append(make()), lambda: False)
    return drawn, previews


def likeness(small: Pixels, picture: Pixels) -> float:
    """The correlation of all their levels, the picture brought to the preview's size."""
    shrunk = np.asarray(Image.fromarray(picture).resize(small.shape[1::-1], Image.Resampling.BOX))
    return float(np.corrcoef(small.reshape(-1), shrunk.reshape(-1))[0, 1])


@pytest.fixture(scope="module")
def taught() -> Engine:
    """The family that ships with fluxserve."""
    loader = Loader(FAMILIES["mini"], Sources(TAUGHT), torch.device("cpu"), [Plan(torch.float32)])
    annotators = Annotators(ANNOTATORS["mini"], Sources(TAUGHT), loader.device)
    return Engine(loader, Loras(finder({}, Sources(TAUGHT), None)), annotators, safety=None)


@pytest.fixture(scope="module", params=["a little cat", "a big red circle on a teal background"])
def seen(taught: Engine, request: pytest.FixtureRequest) -> tuple[Pixels, Sequence[Pixels]]:
    """A picture that the taught family draws, and a preview of every step."""
    generation = Generation("flux1-dev", TextToImage(request.param), 256, 256, STEPS, guidance_scale=3.5, seed=1)
    (drawn,), previews = drawn_with_previews(taught, generation)
    return drawn.pixels, [decode_png(file) for file in previews]


def test_towards_the_end_a_preview_resembles_the_picture(seen: tuple[Pixels, Sequence[Pixels]]) -> None:
    picture, previews = seen
    assert len(previews) == STEPS
    for small in previews[STEPS * 8 // 10 :]:
        assert small.shape == (16, 16, 3)
        assert likeness(small, picture) > 0.9


def test_later_previews_are_nearer_than_early_ones(seen: tuple[Pixels, Sequence[Pixels]]) -> None:
    picture, previews = seen
    likenesses = [likeness(previews[step - 1], picture) for step in (1, 5, 10, STEPS)]
    assert all(earlier < later for earlier, later in pairwise(likenesses))


def test_making_previews_does_not_change_the_pictures(engine: Engine, circle: Generation) -> None:
    generation = replace(circle, steps=4, count=2)
    chance = torch.random.get_rng_state()
    seen, _ = drawn_with_previews(engine, generation)
    unseen = engine.generate(generation, {}, lambda *_: None, lambda: False)
    for one, other in zip(seen, unseen, strict=True):
        assert np.array_equal(one.pixels, other.pixels)
    assert torch.equal(torch.random.get_rng_state(), chance)


def test_a_preview_has_the_shape_of_the_drawing_size(engine: Engine, circle: Generation) -> None:
    _, previews = drawn_with_previews(engine, replace(circle, width=1024, height=512))
    assert [decode_png(file).shape for file in previews] == [(12, 22, 3), (12, 22, 3)]


def test_of_several_pictures_the_one_being_drawn_is_previewed(engine: Engine, circle: Generation) -> None:
    _, together = drawn_with_previews(engine, replace(circle, count=2))
    _, first = drawn_with_previews(engine, circle)
    _, second = drawn_with_previews(engine, replace(circle, seed=circle.seed + 1))
    assert together == first + second


def painted(previews: Previews, vae: AutoencoderKL, picture: Pixels) -> Pixels:
    """A finished picture's preview."""
    with torch.inference_mode():
        latents = latents_of(vae, look(vae, picture_from(picture), vae.device, vae.dtype), None)
    return decode_png(previews.paint(vae, pack(latents), latents.shape[2] // 2, latents.shape[3] // 2))


HALVES = np.full((256, 256, 3), (30, 90, 200), np.uint8)
HALVES[:, 128:] = 220, 120, 40


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_finished_picture_has_its_own_colours(dtype: torch.dtype) -> None:
    vae = AutoencoderKL.from_pretrained(TAUGHT / "shared", subfolder="vae", torch_dtype=dtype)
    small = painted(Previews(), vae, HALVES)
    for columns, colour in ((slice(2, 6), HALVES[0, 0]), (slice(10, 14), HALVES[0, -1])):
        assert np.abs(small[:, columns].mean((0, 1)) - colour).max() < 20


def test_an_autoencoder_of_another_shape_will_do_and_channels_that_repeat_others() -> None:
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8),
        latent_channels=12,
        norm_num_groups=2,
        scaling_factor=3.0,
        shift_factor=-1.0,
        use_quant_conv=False,
    ).requires_grad_(False)
    vae.encoder.conv_out.weight[6:12] = vae.encoder.conv_out.weight[:6]
    vae.encoder.conv_out.bias[6:12] = vae.encoder.conv_out.bias[:6]
    small = painted(Previews(), vae, preview.card())
    assert small.shape == (64, 64, 3)
    assert likeness(small, preview.card()) > 0.5
    assert preview.fit(vae).weight.abs().max() < 10


def test_the_projection_is_fitted_once_and_goes_with_its_autoencoder(
    mini_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[int] = []

    def fit(vae: AutoencoderKL, fit: Callable[[AutoencoderKL], Projection] = preview.fit) -> Projection:
        fitted.append(id(vae))
        return fit(vae)

    monkeypatch.setattr(preview, "fit", fit)
    one, other = (AutoencoderKL.from_pretrained(mini_folder / "shared", subfolder="vae") for _ in range(2))
    previews = Previews()
    small = painted(previews, one, HALVES)
    assert np.array_equal(painted(previews, one, HALVES), small)
    assert np.array_equal(painted(previews, other, HALVES), small)
    assert fitted == [id(one), id(other)]
    del one
    assert len(previews._projections) == 1
