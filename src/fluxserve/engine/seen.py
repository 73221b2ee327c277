"""Callers' pictures as networks see them. Those seen last are kept: a picture comes back, with another prompt, another
seed, or for the next of several drawn from it.

What is kept is what no generator was drawn from, so that a seed means the same whether a picture is new or not.
"""

from collections.abc import Callable, Hashable

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from fluxserve.engine.flux import Flux
from fluxserve.engine.image_prompt import patches_of
from fluxserve.engine.kept import Kept
from fluxserve.engine.pictures import look

MOST_KEPT = 16  # at FLUX.1's size one as latents has 1 MB, one as words 6


class Seen:
    """Keys say which picture it is, and what was done to it before it was shown."""

    def __init__(self, most_kept: int = MOST_KEPT) -> None:
        self._posteriors: Kept[Hashable, DiagonalGaussianDistribution] = Kept(most_kept)
        self._patches: Kept[Hashable, torch.Tensor] = Kept(most_kept)

    def posterior(self, flux: Flux, key: Hashable, picture: Callable[[], torch.Tensor]) -> DiagonalGaussianDistribution:
        """What the autoencoder makes of `picture`, (1, 3, height, width) in -1..1."""
        return self._posteriors.get(
            (flux.row.shared, key), lambda: look(flux.shared.vae, picture(), flux.device, flux.dtype)
        )

    def patches(self, flux: Flux, png: bytes) -> torch.Tensor:
        """What a picture says instead of words, (1, patches, width)."""
        return self._patches.get((flux.row.image_prompt, png), lambda: patches_of(flux, png))
