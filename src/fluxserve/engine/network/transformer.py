"""FLUX's transformer: which way from the picture to the noise? (Black Forest Labs, 2024; it has no paper.)"""

from dataclasses import dataclass, field

import torch

from fluxserve.engine.network.blocks import OF_END, modulated
from fluxserve.engine.network.layers import Keeping, small
from fluxserve.engine.network.shape import Shape
from fluxserve.engine.network.trunk import Told, Trunk, share_of


@dataclass(frozen=True, slots=True)
class Residuals:
    """What a control network has to add after blocks, (1, image tokens, width) each."""

    doubles: list[torch.Tensor] = field(default_factory=list)
    singles: list[torch.Tensor] = field(default_factory=list)

    def times(self, strength: float) -> "Residuals":
        return Residuals([each * strength for each in self.doubles], [each * strength for each in self.singles])


class Transformer(torch.nn.Module):
    def __init__(self, shape: Shape, keeping: Keeping) -> None:
        super().__init__()
        self.trunk = Trunk(shape, keeping, ends=True)
        self.image_out = small(shape.width, shape.channels_out, keeping)

    def forward(self, tokens: torch.Tensor, told: Told, step: int, residuals: Residuals, answered: int) -> torch.Tensor:
        """(1, tokens, channels in) -> the direction of the first `answered` of them, (1, answered, channels out)."""
        trunk, words, modulation = self.trunk, told.words, told.modulation[step]
        image = trunk.image_in(tokens)
        for number, block in enumerate(trunk.doubles):
            words, image = block(words, image, trunk.of_double(modulation, number), told.table)
            if residuals.doubles:
                image = image + share_of(residuals.doubles, number, len(trunk.doubles))
        states = torch.cat((words, image), dim=1)
        for number, block in enumerate(trunk.singles):
            states = block(states, trunk.of_single(modulation, number), told.table)
            if residuals.singles:
                states[:, words.shape[1] :] += share_of(residuals.singles, number, len(trunk.singles))
        scale, shift = modulation[-OF_END:]
        first = words.shape[1]
        return self.image_out(modulated(states[:, first : first + answered], shift, scale))
