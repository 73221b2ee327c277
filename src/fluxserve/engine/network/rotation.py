"""Where a token stands, as a turn of its queries and keys (RoPE: Su et al., 2021), with an axis each for a token's
picture, row and column.

The table depends on positions alone, so that it is made once a picture.
"""

from collections.abc import Sequence

import torch

THETA = 10_000.0


def turns(positions: torch.Tensor, axes: Sequence[int]) -> torch.Tensor:
    """(tokens, axes) positions -> (2, tokens, head width / 2) float32: the cosines, the sines. Both on the CPU."""
    places = positions.double()  # as FLUX does it
    angles = torch.cat([_angles(places[:, number], channels) for number, channels in enumerate(axes)], dim=1)
    return torch.stack((angles.cos(), angles.sin())).float()


def turned(states: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """(1, tokens, heads, head width), each two neighbouring channels turned as one point of a plane."""
    cosine, sine = table[0, :, None], table[1, :, None]
    *others, width = states.shape
    x, y = states.float().view(*others, width // 2, 2).unbind(-1)
    return torch.stack((x * cosine - y * sine, y * cosine + x * sine), -1).flatten(-2).to(states.dtype)


def _angles(places: torch.Tensor, channels: int) -> torch.Tensor:
    speeds = 1.0 / THETA ** (torch.arange(0, channels, 2, dtype=torch.float64) / channels)
    return torch.outer(places, speeds)
