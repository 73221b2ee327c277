"""Linear layers, by how they keep their weights.

All are made empty, and filled by rows: a layer may hold several of the layers of a checkpoint, one under another, and
each of them can be filled anew, where it is, when a LoRA is put on or taken off.
"""

from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from torch.nn import functional as F

Precision = Literal["whole", "fp8"]
"""How the large layers keep their weights: as they came, or in eight bits."""

FP8 = torch.float8_e4m3fn
LARGEST_FP8 = torch.finfo(FP8).max
SMALLEST = 1e-12  # for rows of zeros


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


class Fp8Linear(nn.Module):
    """Weights in eight bits (e4m3) with a scale for each row; what comes in is brought to eight bits too, with a scale
    for each token, and the product is taken in eight bits."""

    if TYPE_CHECKING:

        def __call__(self, states: torch.Tensor) -> torch.Tensor: ...

    def __init__(self, width_in: int, width_out: int, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width_out, width_in, device=device, dtype=FP8), requires_grad=False)
        self.scale = nn.Parameter(torch.empty(1, width_out, device=device), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(width_out, device=device, dtype=dtype), requires_grad=False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        small, scale = in_eight_bits(states.flatten(0, -2))
        product: torch.Tensor = torch._scaled_mm(
            small, self.weight.t(), scale, self.scale, self.bias, out_dtype=states.dtype, use_fast_accum=True
        )
        return product.view(*states.shape[:-1], -1)

    def fill(self, first: int, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Set the rows from `first` on."""
        rows = slice(first, first + len(weight))
        self.weight[rows], scale = in_eight_bits(weight)
        self.scale[0, rows] = scale[:, 0]
        self.bias[rows] = 0 if bias is None else bias


def in_eight_bits(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, width) -> the same as e4m3, and (rows, 1) float32 scales, with which each row's largest is near e4m3's.

    The scales are powers of two, so that numbers which were e4m3 already stay what they are.
    """
    values = rows.float()
    largest = values.abs().amax(1, keepdim=True).clamp(min=SMALLEST)
    scale = torch.exp2(torch.ceil(torch.log2(largest / LARGEST_FP8)))
    return (values / scale).to(FP8), scale


def layer_at(network: nn.Module, path: str) -> Linear | Fp8Linear:
    layer = network.get_submodule(path)
    assert isinstance(layer, Linear | Fp8Linear)
    return layer


LINEARS: dict[Precision, type[Linear] | type[Fp8Linear]] = {"whole": Linear, "fp8": Fp8Linear}
