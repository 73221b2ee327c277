"""What FLUX's transformer and its control networks have in common: how tokens come in, the blocks, what steers them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from fluxserve.engine.network.blocks import OF_DOUBLE, OF_END, OF_SINGLE, DoubleBlock, SingleBlock
from fluxserve.engine.network.conditioning import Conditioning
from fluxserve.engine.network.layers import Keeping, small
from fluxserve.engine.network.linear import HostLinear, LongLinear
from fluxserve.engine.network.rotation import turns
from fluxserve.engine.network.shape import Shape
from fluxserve.engine.transfer import to_device


@dataclass(frozen=True, slots=True)
class Told:
    """All that a network is told of a picture, but for its tokens: made once, before the first step.

    `words` is (1, words, width), `modulation` (steps, rows, width) with all blocks' rows one after another, `table`
    where all tokens stand (`rotation`).
    """

    words: torch.Tensor
    modulation: torch.Tensor
    table: torch.Tensor


class Trunk(nn.Module):
    """`ends` says whether its modulation has rows for the end, as a transformer's does."""

    def __init__(self, shape: Shape, keeping: Keeping, *, ends: bool) -> None:
        super().__init__()
        width = shape.width
        self.shape = shape
        self.image_in = small(shape.channels_in, width, keeping)
        self.words_in = small(shape.words_in, width, keeping)
        self.conditioning = Conditioning(shape, keeping)
        rows = OF_DOUBLE * shape.doubles + OF_SINGLE * shape.singles + (OF_END if ends else 0)
        # A quarter of FLUX.1's weights, and read for one vector a step: of all blocks and steps at once it costs next
        # to nothing, in each block at each step it would be one and a half milliseconds of a step's hundred.
        kind = HostLinear if keeping.modulates_from_host else LongLinear
        self.modulation = kind(width, rows * width, keeping.device, keeping.dtype)
        self.doubles = nn.ModuleList(DoubleBlock(shape, keeping) for _ in range(shape.doubles))
        self.singles = nn.ModuleList(SingleBlock(shape, keeping) for _ in range(shape.singles))

    def tell(
        self,
        words: torch.Tensor,
        pooled: torch.Tensor,
        timesteps: torch.Tensor,
        guidance_scale: float | None,
        positions: torch.Tensor,
        first_word: torch.Tensor | None = None,
    ) -> Told:
        """`words` is T5's (1, words, width in), `positions` the image tokens', (tokens, 3) and on the CPU, as
        `timesteps` are; words stand at the origin.

        `first_word`, (1, 1, width), goes before the words as it is."""
        said = self.words_in(words)
        if first_word is not None:
            said = torch.cat((first_word, said), dim=1)
        everywhere = torch.cat((torch.zeros_like(positions[:1]).expand(said.shape[1], -1), positions))
        steered = self.modulation(F.silu(self.conditioning(timesteps, guidance_scale, pooled)))
        return Told(
            words=said,
            modulation=steered.view(len(steered), -1, self.shape.width),
            table=to_device(turns(everywhere, self.shape.axes), said.device),
        )

    def compile_blocks(self, backend: str = "inductor") -> None:
        """Have blocks compiled at their first use. All blocks of a kind are one piece of code, whatever network they
        are in, and lengths may vary: there are two compilations in all. `backend` is one of torch's."""
        for block in (*self.doubles, *self.singles):
            block.compile(backend=backend, fullgraph=True, dynamic=True)

    def of_double(self, modulation: torch.Tensor, number: int) -> torch.Tensor:
        """A double block's rows of a step's modulation, (12, width)."""
        return modulation[OF_DOUBLE * number : OF_DOUBLE * (number + 1)]

    def of_single(self, modulation: torch.Tensor, number: int) -> torch.Tensor:
        """A single block's rows of a step's modulation, (3, width)."""
        first = OF_DOUBLE * self.shape.doubles + OF_SINGLE * number
        return modulation[first : first + OF_SINGLE]


def share_of(residuals: Sequence[torch.Tensor], number: int, blocks: int) -> torch.Tensor:
    """The residual of a control network with fewer blocks than the transformer's: each serves several in a row."""
    return residuals[number // -(-blocks // len(residuals))]
