from dataclasses import replace

import numpy as np
import pytest
import torch

from fluxserve.domain.generation import LARGEST_SEED, Generation, TextToImage
from fluxserve.engine.denoise import StoppedError
from fluxserve.engine.engine import Engine
from fluxserve.engine.finish import Drawn
from fluxserve.engine.flux import Flux
from fluxserve.engine.tuning import BACKENDS, Tuning
from tests.engine import oracle


def draw(engine: Engine, generation: Generation) -> list[Drawn]:
    return engine.generate(generation, {}, lambda *_: None, lambda: False)


def test_pixels_are_those_of_diffusers(engine: Engine, dev: Flux, circle: Generation) -> None:
    generation = replace(circle, model="flux1-dev", width=1024, height=512, guidance_scale=3.5)
    (drawn,) = draw(engine, generation)
    expected = oracle.draw(dev, generation, "pt")[0].permute(1, 2, 0).numpy() * 255
    assert drawn.pixels.shape == (192, 352, 3)
    assert np.abs(drawn.pixels - expected).max() <= 0.5001


def test_each_picture_of_several_is_the_one_its_seed_draws_alone(engine: Engine, circle: Generation) -> None:
    together = draw(engine, replace(circle, seed=LARGEST_SEED, count=3))
    assert [drawn.seed for drawn in together] == [LARGEST_SEED, 0, 1]
    for drawn in together:
        (alone,) = draw(engine, replace(circle, seed=drawn.seed))
        assert np.array_equal(alone.pixels, drawn.pixels)
    assert not np.array_equal(together[0].pixels, together[1].pixels)


def test_a_picture_does_not_depend_on_what_was_drawn_before(engine: Engine, circle: Generation) -> None:
    (first,) = draw(engine, circle)
    draw(engine, replace(circle, model="flux1-dev", guidance_scale=3.5, height=512, steps=5, seed=99))
    (again,) = draw(engine, circle)
    assert np.array_equal(first.pixels, again.pixels)


def test_a_cancelled_drawing_does_not_touch_the_next(engine: Engine, circle: Generation) -> None:
    (first,) = draw(engine, circle)
    told: list[int] = []
    with pytest.raises(StoppedError):
        engine.generate(replace(circle, steps=9), {}, lambda step, *_: told.append(step), lambda: bool(told))
    (again,) = draw(engine, circle)
    assert told == [1]
    assert np.array_equal(first.pixels, again.pixels)


def test_steps_are_counted_over_all_pictures(engine: Engine, circle: Generation) -> None:
    told: list[tuple[int, int]] = []
    engine.generate(
        replace(circle, count=2, steps=2),
        {},
        lambda step, steps, _preview: told.append((step, steps)),
        lambda: False,
    )
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize("prompt", ["", "🐈 ظ 猫", "\x00\n", "word " * 2000])
def test_any_prompt_gives_a_picture(engine: Engine, circle: Generation, prompt: str) -> None:
    (drawn,) = draw(engine, replace(circle, kind=TextToImage(prompt), steps=1))
    assert drawn.pixels.shape == (256, 256, 3)
    assert drawn.pixels.dtype == np.uint8


def test_while_it_draws_attention_goes_by_the_tuning(
    engine: Engine, circle: Generation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine._loader, "tuning", Tuning(backends=(BACKENDS["math"],)))
    allowed: list[bool] = []

    def note(*_: object) -> None:
        allowed.append(torch.backends.cuda.flash_sdp_enabled())  # type: ignore[no-untyped-call]

    engine.generate(circle, {}, note, lambda: False)
    note()
    assert allowed == [False, False, True]
