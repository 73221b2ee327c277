"""Prices in points."""

import pytest

from fluxserve.domain.credits import points, price
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
    assert price(Generation(model, TextToImage("a cat"), 256, 256, 4, None, 0, count)) == expected


def test_ten_million_points_are_a_dollar() -> None:
    assert points(1) == 10_000_000
    assert points(0.002) == 20_000
