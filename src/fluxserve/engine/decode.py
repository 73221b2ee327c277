"""Decode: latents to pixels. The pixels leave the device as bytes, a quarter of what floats would take to copy."""

import torch
from diffusers import AutoencoderKL

from fluxserve.engine.latents import unpack
from fluxserve.engine.transfer import Arriving


def decode(vae: AutoencoderKL, latents: torch.Tensor, rows: int, columns: int) -> Arriving:
    """The picture of `latents`, (1, rows * columns, channels), as the autoencoder paints it."""
    unscaled = unpack(latents, rows, columns) / vae.config.scaling_factor + vae.config.shift_factor
    image: torch.Tensor = vae.decode(unscaled, return_dict=False)[0]
    return Arriving(to_levels(image))


def to_levels(image: torch.Tensor) -> torch.Tensor:
    """(1, 3, height, width) in -1..1 -> (height, width, 3) bytes; what lies beyond is cut off."""
    # In bfloat16 the steps between 128 and 255 would be whole units: round in float32.
    levels = ((image[0].float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return levels.permute(1, 2, 0).contiguous()
