"""Which linear layer a network has where: the large ones keep their weights as the plan says."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from fluxserve.engine.network.eight_bits import Fp8Linear
from fluxserve.engine.network.four_bits import BLOCK, FourBitLinear
from fluxserve.engine.network.linear import Linear

Precision = Literal["whole", "fp8", "nf4"]
"""How the large layers keep their weights: as they came, in eight bits, or in four."""

Layer = Linear | Fp8Linear | FourBitLinear


@dataclass(frozen=True, slots=True)
class Keeping:
    """Where and how a network keeps its weights: large layers by `precision`, all others in `dtype`; those of the
    modulation, which is asked once a picture, on the host if `modulates_from_host`."""

    device: torch.device
    dtype: torch.dtype
    precision: Precision = "whole"
    modulates_from_host: bool = False


def large(width_in: int, width_out: int, keeping: Keeping) -> Layer:
    if keeping.precision == "fp8":
        return Fp8Linear(width_in, width_out, keeping.device, keeping.dtype)
    if keeping.precision == "nf4" and width_in % BLOCK == 0:
        return FourBitLinear(width_in, width_out, keeping.device, keeping.dtype)
    return small(width_in, width_out, keeping)


def small(width_in: int, width_out: int, keeping: Keeping) -> Linear:
    return Linear(width_in, width_out, keeping.device, keeping.dtype)


def vectors(size: tuple[int, ...], keeping: Keeping) -> nn.Parameter:
    return nn.Parameter(torch.empty(size, device=keeping.device, dtype=keeping.dtype), requires_grad=False)


def layer_at(network: nn.Module, path: str) -> Layer:
    layer = network.get_submodule(path)
    assert isinstance(layer, Layer)
    return layer
