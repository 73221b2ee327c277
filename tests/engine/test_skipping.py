from dataclasses import replace

import pytest
import torch

from fluxserve.domain.generation import Generation, TextToImage
from fluxserve.domain.speeds import SPEEDS, SpeedName
from fluxserve.engine.denoise import denoise
from fluxserve.engine.flux import Flux
from fluxserve.engine.skipping import Trend, computed
from tests.engine.test_denoise import prepared


def shown(steps: int, stride: int) -> str:
    return "".join("x" if is_computed else "." for is_computed in computed(steps, stride))


def test_the_first_two_steps_the_last_and_one_of_each_stride_are_computed() -> None:
    assert shown(12, 1) == "xxxxxxxxxxxx"
    assert shown(12, 2) == "xx.x.x.x.x.x"
    assert shown(12, 4) == "xx...x...x.x"


def test_a_short_schedule_is_computed_whole() -> None:
    for steps in range(1, 8):
        assert shown(steps, 4) == "x" * steps


@pytest.mark.parametrize(("speed", "most"), [("exact", 1.0), ("fast", 0.55), ("fastest", 0.36)])
def test_of_28_steps_a_speed_computes_no_more_than_its_share(speed: SpeedName, most: float) -> None:
    assert sum(computed(28, SPEEDS[speed].stride)) <= most * 28


def test_a_trend_goes_on_in_a_straight_line() -> None:
    trend, start, slope = Trend(), torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])
    for timestep in (1000.0, 900.0, 850.0):
        trend.note(timestep, start + slope * (1000 - timestep))
    for timestep in (840.0, 700.0):
        torch.testing.assert_close(trend.at(timestep), start + slope * (1000 - timestep))


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_skipped_steps_are_not_asked_for_but_told(dev: Flux, circle: Generation, stride: int) -> None:
    asked: list[int] = []
    told: list[int] = []
    with torch.inference_mode():
        first = prepared(dev, replace(circle, kind=TextToImage("a cat"), steps=20, guidance_scale=3.5))
        ask = first.velocity

        def counted(latents: torch.Tensor, step: int) -> torch.Tensor:
            asked.append(step)
            return ask(latents, step)

        denoise(replace(first, velocity=counted), stride, lambda step, *_: told.append(step), lambda: False)
    assert asked == [step for step, is_computed in enumerate(computed(20, stride)) if is_computed]
    assert told == list(range(1, 21))


def test_the_more_is_skipped_the_further_from_the_exact_picture(dev: Flux, circle: Generation) -> None:
    def drawn(stride: int) -> torch.Tensor:
        asked = replace(circle, kind=TextToImage("a cat"), steps=28, guidance_scale=3.5)
        with torch.inference_mode():
            return denoise(prepared(dev, asked), stride, lambda *_: None, lambda: False)

    exact = drawn(1)
    near, far = (float(torch.dist(drawn(stride), exact) / exact.norm()) for stride in (2, 6))
    assert 0 < near < far < 0.2
