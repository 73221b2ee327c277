"""Callers' pictures on their way into latents."""

from io import BytesIO

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image

from fluxserve.engine.png import Pixels, decode_png
from fluxserve.engine.transfer import to_device


def picture_of(png: bytes, size: tuple[int, int]) -> torch.Tensor:
    """A PNG file as (1, 3, height, width) in -1..1, resampled to `size` (width, height in pixels)."""
    image = Image.fromarray(decode_png(png))
    if image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    return picture_from(np.asarray(image))


def size_of(png: bytes) -> tuple[int, int]:
    """Its width and height, without looking at its pixels."""
    return Image.open(BytesIO(png), formats=("PNG",)).size


def picture_from(pixels: Pixels) -> torch.Tensor:
    """(height, width, 3) bytes as (1, 3, height, width) in -1..1."""
    fractions = pixels.astype(np.float32)[None] / 255
    # The channels stay innermost in memory: the autoencoder's convolutions round by the layout they meet.
    picture: torch.Tensor = torch.from_numpy(fractions.transpose(0, 3, 1, 2)) * 2 - 1
    return picture


def look(
    vae: AutoencoderKL, picture: torch.Tensor, device: torch.device, dtype: torch.dtype
) -> DiagonalGaussianDistribution:
    """The autoencoder's posterior of a picture, (1, 3, height, width) in -1..1."""
    posterior: DiagonalGaussianDistribution = vae.encode(to_device(picture.to(dtype), device)).latent_dist
    return posterior


def latents_of(
    vae: AutoencoderKL, posterior: DiagonalGaussianDistribution, generator: torch.Generator | None
) -> torch.Tensor:
    """Latents, (1, channels, 2 * rows, 2 * columns), that `generator` draws from the posterior; without one they are
    its likeliest."""
    drawn: torch.Tensor = posterior.mode() if generator is None else posterior.sample(generator)
    latents: torch.Tensor = (drawn - vae.config.shift_factor) * vae.config.scaling_factor
    return latents
