"""What a generation costs."""

from fluxserve.domain.catalog import MODELS, POINTS_PER_USD
from fluxserve.domain.generation import Generation


def price(generation: Generation) -> int:
    """Points for all its pictures; 10,000,000 points are one US dollar."""
    return MODELS[generation.model].price * generation.count


def points(usd: float) -> int:
    """`usd` in points, to the nearest point."""
    return round(usd * POINTS_PER_USD)
