"""Callers' pictures on their way into latents."""

from io import BytesIO

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

PAPER = "white"  # what shows through where a picture is transparent


def picture_of(png: bytes, size: tuple[int, int]) -> torch.Tensor:
    """A PNG file as (1, 3, height, width) in -1..1, resampled to `size` (width, height in pixels)."""
    image: Image.Image = Image.open(BytesIO(png), formats=("PNG",))
    if image.mode == "RGBA":
        paper = Image.new("RGB", image.size, PAPER)
        paper.paste(image, mask=image.getchannel("A"))
        image = paper
    if image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    fractions = np.asarray(image, np.float32)[None] / 255
    # The channels stay innermost in memory: the autoencoder's convolutions round by the layout they meet.
    picture: torch.Tensor = torch.from_numpy(fractions.transpose(0, 3, 1, 2)) * 2 - 1
    return picture


def encode_picture(
    vae: AutoencoderKL, picture: torch.Tensor, generator: torch.Generator, device: torch.device, dtype: torch.dtype
) -> torch.Tensor:
    """Latents of `picture`, (1, channels, 2 * rows, 2 * columns), drawn from the autoencoder's posterior."""
    posterior = vae.encode(picture.to(device, dtype)).latent_dist
    latents: torch.Tensor = (posterior.sample(generator) - vae.config.shift_factor) * vae.config.scaling_factor
    return latents
