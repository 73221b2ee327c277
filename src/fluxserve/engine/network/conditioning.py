"""What a step is told beside its tokens: how much noise there is, how closely to follow the words, and the words'
meaning as one vector. It is known for all steps before the first."""

import math
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from fluxserve.engine.network.layers import Keeping, small
from fluxserve.engine.network.shape import Shape
from fluxserve.engine.transfer import to_device

WAVES = 256  # that a number is written in
SLOWEST = 10_000.0


class Perceptron(nn.Module):
    if TYPE_CHECKING:

        def __call__(self, states: torch.Tensor) -> torch.Tensor: ...

    def __init__(self, width_in: int, width: int, keeping: Keeping) -> None:
        super().__init__()
        self.first = small(width_in, width, keeping)
        self.second = small(width, width, keeping)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.second(F.silu(self.first(states)))


class Conditioning(nn.Module):
    def __init__(self, shape: Shape, keeping: Keeping) -> None:
        super().__init__()
        self.time = Perceptron(WAVES, shape.width, keeping)
        self.guidance = Perceptron(WAVES, shape.width, keeping) if shape.takes_guidance else None
        self.meaning = Perceptron(shape.pooled_in, shape.width, keeping)

    def forward(self, timesteps: torch.Tensor, guidance_scale: float | None, pooled: torch.Tensor) -> torch.Tensor:
        """(steps,) timesteps, 1000 for noise alone, and CLIP's (1, width) -> (steps, width)."""
        dtype, timesteps = pooled.dtype, to_device(timesteps, pooled.device)
        # Rounded to the network's type before and after the division, as the model was used when it was published.
        told = self.time(waves((timesteps.to(dtype) / 1000) * 1000).to(dtype))
        if self.guidance is not None:
            strength = to_device(torch.tensor([guidance_scale]), pooled.device).to(dtype) * 1000
            told = told + self.guidance(waves(strength).to(dtype))
        return told + self.meaning(pooled)


def waves(numbers: torch.Tensor) -> torch.Tensor:
    """(n,) -> (n, 256) float32: cosines, then sines, from fast to slow (Vaswani et al., 2017)."""
    half = WAVES // 2
    exponents = -math.log(SLOWEST) * torch.arange(half, dtype=torch.float32, device=numbers.device) / half
    angles = numbers.float()[:, None] * exponents.exp()
    return torch.cat((angles.cos(), angles.sin()), dim=1)
