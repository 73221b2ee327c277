"""Linear layers that keep their weights in eight bits (e4m3), and compute in them where the device does."""

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

FP8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FP8).max
SMALLEST = 1e-12  # for rows of zeros
MULTIPLIES = (8, 9)  # NVIDIA's compute capability
OF_AMD = ("gfx95", "gfx120")  # whose capability says nothing; gfx94 has another e4m3


class Fp8Linear(nn.Module):
    """A scale for each row of the weights. Where the device multiplies in eight bits, what comes in is brought to eight
    bits too, with a scale for each token; where not, the weights are brought back for the product."""

    if TYPE_CHECKING:

        def __call__(self, states: torch.Tensor) -> torch.Tensor: ...

    def __init__(self, width_in: int, width_out: int, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width_out, width_in, device=device, dtype=FP8), requires_grad=False)
        self.scale = nn.Parameter(torch.empty(1, width_out, device=device), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(width_out, device=device, dtype=dtype), requires_grad=False)
        self._multiplies = multiplies_eight_bits(device)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        if not self._multiplies:
            # Exactly, in either type: the scales are powers of two.
            return F.linear(states, self.weight.to(states.dtype) * self.scale.T.to(states.dtype), self.bias)
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


def multiplies_eight_bits(device: torch.device) -> bool:
    """Whether its products of e4m3 numbers are faster than others. The CPU's are not, but there they can be tested."""
    if device.type == "cuda" and torch.version.hip:
        name: str = torch.cuda.get_device_properties(device).gcnArchName
        return name.startswith(OF_AMD)
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= MULTIPLIES
    return device.type == "cpu"


def in_eight_bits(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, width) -> the same as e4m3, and (rows, 1) float32 scales, with which each row's largest is near e4m3's.

    The scales are powers of two, so that numbers which were e4m3 already stay what they are.
    """
    values = rows.float()
    largest = values.abs().amax(1, keepdim=True).clamp(min=SMALLEST)
    scale = torch.exp2(torch.ceil(torch.log2(largest / LARGEST)))
    return (values / scale).to(FP8), scale
