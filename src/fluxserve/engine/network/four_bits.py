"""Linear layers that keep their weights in four bits (NF4), and compute in the network's type."""

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

BLOCK = 64  # weights that have a scale together
SMALLEST = 1e-12  # for blocks of zeros
# The levels of NF4, each as likely as another where weights are normally distributed (Dettmers et al., "QLoRA", 2023).
LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


class FourBitLinear(nn.Module):
    """Two weights in a byte, and a scale for each 64 of a row; they are brought back for the product.

    `width_in` is a multiple of 64."""

    if TYPE_CHECKING:

        def __call__(self, states: torch.Tensor) -> torch.Tensor: ...

    def __init__(self, width_in: int, width_out: int, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        codes = torch.empty(width_out, width_in // 2, device=device, dtype=torch.uint8)
        self.weight = nn.Parameter(codes, requires_grad=False)
        scale = torch.empty(width_out, width_in // BLOCK, device=device, dtype=dtype)
        self.scale = nn.Parameter(scale, requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(width_out, device=device, dtype=dtype), requires_grad=False)
        self.levels = nn.Parameter(torch.tensor(LEVELS, device=device, dtype=dtype), requires_grad=False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        codes = torch.stack((self.weight >> 4, self.weight & 15), -1)
        blocks = self.levels[codes.int()].view(*self.scale.shape, BLOCK)
        return F.linear(states, (blocks * self.scale[..., None]).view(len(self.weight), -1), self.bias)

    def fill(self, first: int, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Set the rows from `first` on."""
        rows = slice(first, first + len(weight))
        blocks = weight.float().view(len(weight), -1, BLOCK)
        scale = blocks.abs().amax(-1).clamp(min=SMALLEST).to(self.scale.dtype)
        levels = self.levels.float()
        borders = (levels[1:] + levels[:-1]) / 2
        codes = torch.bucketize(blocks / scale.float()[..., None], borders).to(torch.uint8).view(len(weight), -1, 2)
        self.weight[rows] = (codes[..., 0] << 4) | codes[..., 1]
        self.scale[rows] = scale
        self.bias[rows] = 0 if bias is None else bias
