"""A control network: FLUX's first blocks over again, that look at a map and say what to add to the transformer's own
(Zhang et al., "Adding Conditional Control", 2023)."""

import torch
from torch import nn

from fluxserve.engine.network.layers import Keeping, small, vectors
from fluxserve.engine.network.shape import Shape
from fluxserve.engine.network.transformer import Residuals
from fluxserve.engine.network.trunk import Told, Trunk


class ControlNetwork(nn.Module):
    def __init__(self, shape: Shape, keeping: Keeping) -> None:
        super().__init__()
        width = shape.width
        self.trunk = Trunk(shape, keeping, ends=False)
        self.map_in = small(shape.channels_in, width, keeping)
        self.after_doubles = nn.ModuleList(small(width, width, keeping) for _ in range(shape.doubles))
        self.after_singles = nn.ModuleList(small(width, width, keeping) for _ in range(shape.singles))
        self.modes = vectors((shape.modes, width), keeping) if shape.modes else None

    def first_word(self, mode: int | None) -> torch.Tensor | None:
        """How it is told which type of map it is shown, for `Trunk.tell`."""
        return None if self.modes is None or mode is None else self.modes[None, mode : mode + 1]

    def forward(self, tokens: torch.Tensor, seen: torch.Tensor, told: Told, step: int) -> Residuals:
        """`tokens` are the latents', (1, tokens, channels in), `seen` the map's as `map_in` reads them."""
        trunk, words, modulation = self.trunk, told.words, told.modulation[step]
        image = trunk.image_in(tokens) + seen
        residuals = Residuals()
        for number, (block, after) in enumerate(zip(trunk.doubles, self.after_doubles, strict=True)):
            words, image = block(words, image, trunk.of_double(modulation, number), told.table)
            residuals.doubles.append(after(image))
        states = torch.cat((words, image), dim=1)
        for number, (block, after) in enumerate(zip(trunk.singles, self.after_singles, strict=True)):
            states = block(states, trunk.of_single(modulation, number), told.table)
            residuals.singles.append(after(states[:, words.shape[1] :]))
        return residuals
