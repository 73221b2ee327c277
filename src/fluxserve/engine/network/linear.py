"""Linear layers with their weights as they came, on the device or on the host.

All are made empty, and filled by rows: a layer may hold several of a checkpoint's, one under another, and each of them
can be filled anew, where it is, when a LoRA is put on or taken off.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

MOST_AT_ONCE = 1 << 28  # bytes of a long layer's weights that are multiplied, or brought to the device, together


class Linear(nn.Module):
    """Weights as they came, in the network's type."""

    if TYPE_CHECKING:

        def __call__(self, states: torch.Tensor) -> torch.Tensor: ...

    def __init__(self, width_in: int, width_out: int, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width_out, width_in, device=device, dtype=dtype), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(width_out, device=device, dtype=dtype), requires_grad=False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return F.linear(states, self.weight, self.bias)

    def fill(self, first: int, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Set the rows from `first` on."""
        rows = slice(first, first + len(weight))
        self.weight[rows] = weight
        self.bias[rows] = 0 if bias is None else bias


class LongLinear(Linear):
    """For layers that are asked once a picture, and have more numbers than libraries count with 32 bits: piece by
    piece."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        rows = max(1, MOST_AT_ONCE // (self.weight.shape[1] * self.weight.itemsize))
        pieces = zip(torch.split(self.weight, rows), torch.split(self.bias, rows), strict=True)
        return torch.cat([F.linear(states, *_brought(piece, states.device)) for piece in pieces], dim=-1)


def _brought(tensors: Iterable[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
    return [tensor.to(device, non_blocking=True) for tensor in tensors]


class HostLinear(LongLinear):
    """With its weights on the host: each piece goes to the device, and goes."""

    def __init__(self, width_in: int, width_out: int, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(width_in, width_out, torch.device("meta" if device.type == "meta" else "cpu"), dtype)
        if device.type == "cuda":
            self.weight.data = torch.empty_like(self.weight, pin_memory=True)
            self.bias.data = self.bias.data.pin_memory()
        self._is_fetched = device.type == "cuda"

    def fill(self, first: int, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        if self._is_fetched:  # perhaps at this moment: what is on its way shall arrive as it was
            torch.cuda.synchronize()
        super().fill(first, weight, bias)
