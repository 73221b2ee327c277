"""Prices in points."""

import pytest

from fluxserve.config import PriceSettings
from fluxserve.domain.catalog import MODELS
from fluxserve.domain.credits import points, price, work
from fluxserve.domain.generation import Generation, TextToImage


@pytest.mark.parametrize(
    ("model", "count", "expected"),
    [
        ("flux1-schnell", 1, 20_000),
        ("flux1-schnell", 4, 80_000),
        ("flux1-dev", 1, 150_000),
        ("flux1-dev-advanced", 1, 200_000),
    ],
)
def test_a_price_is_the_models_for_each_picture(model: str, count: int, expected: int) -> None:
    asked = Generation(model, TextToImage("a cat"), 256, 256, 4, None, 0, count)
    assert price(asked, PriceSettings().of_products) == expected


def test_every_model_has_a_price() -> None:
    assert PriceSettings().of_products.keys() >= MODELS.keys()


def test_work_grows_with_pixels_steps_and_pictures() -> None:
    assert work(Generation("flux1-schnell", TextToImage("a cat"), 100, 10, 4, None, 0, count=3)) == 12_000


def test_ten_million_points_are_a_dollar() -> None:
    assert points(1) == 10_000_000
    assert points(0.002) == 20_000
