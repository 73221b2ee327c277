"""Latents as the transformer sees them: noise to begin with, packed to tokens, each with its place in the picture.

A token is a 2x2 block of the autoencoder's latents with all channels, tokens go row by row. It knows nothing of models
beyond the number of channels.
"""

import torch

from fluxserve.engine.transfer import to_device


def noise(
    generator: torch.Generator, channels: int, rows: int, columns: int, device: torch.device, dtype: torch.dtype
) -> torch.Tensor:
    """Standard normal latents, (1, channels, 2 * rows, 2 * columns).

    Drawn by a generator on the CPU whatever the device, so that a seed names the same noise on every machine.
    """
    return to_device(torch.randn((1, channels, 2 * rows, 2 * columns), generator=generator, dtype=dtype), device)


def pack(latents: torch.Tensor) -> torch.Tensor:
    """(1, channels, 2 * rows, 2 * columns) -> (1, rows * columns, 4 * channels)."""
    _, channels, height, width = latents.shape
    blocks = latents.view(1, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return blocks.reshape(1, (height // 2) * (width // 2), 4 * channels)


def pack_mask(mask: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """A mask in pixels, (1, 1, height, width) -> (1, rows * columns, pixels a token): each token's own part of it.

    The pixels of a latent become channels, and then the latents of a token, as `pack` does it.
    """
    side = mask.shape[2] // (2 * rows)
    parts = mask.view(1, 2 * rows, side, 2 * columns, side).permute(0, 2, 4, 1, 3)
    return pack(parts.reshape(1, side * side, 2 * rows, 2 * columns))


def unpack(latents: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """(1, rows * columns, 4 * channels) -> (1, channels, 2 * rows, 2 * columns)."""
    channels = latents.shape[2] // 4
    blocks = latents.view(1, rows, columns, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return blocks.reshape(1, channels, 2 * rows, 2 * columns)


def positions(rows: int, columns: int, picture: int = 0) -> torch.Tensor:
    """Where each token stands, (rows * columns, 3) float32, on the CPU: (picture, row, column)."""
    ids = torch.zeros(rows, columns, 3)
    ids[..., 0] = picture
    ids[..., 1] = torch.arange(rows)[:, None]
    ids[..., 2] = torch.arange(columns)[None, :]
    return ids.view(-1, 3)
