"""What a generation costs, and how much there is to do for it."""

from collections.abc import Mapping

from fluxserve.domain.generation import Generation

POINTS_PER_USD = 10_000_000


def price(generation: Generation, prices: Mapping[str, int], product: str | None = None) -> int:
    """Points for all its pictures, by the prices of one of each product, if not of its model; 10,000,000 points are one
    US dollar."""
    return prices[product or generation.model] * generation.count


def points(usd: float) -> int:
    """`usd` in points, to the nearest point."""
    return round(usd * POINTS_PER_USD)


def usd(points: int) -> float:
    return points / POINTS_PER_USD


def work(generation: Generation) -> int:
    """How long it will take, against others: its pixels times its denoising steps."""
    return generation.width * generation.height * generation.steps * generation.count
