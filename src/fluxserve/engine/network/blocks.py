"""The blocks of FLUX: attention over the words and the image together, and a perceptron, each steered by what a step
is told.

A double block has layers of its own for the words and for the image; a single block has one set for both. Layers that
read the same states are one: FLUX keeps queries, keys and values, and in single blocks the perceptron's first half, in
one matrix, and one product of that size is faster than four.

What steers a block, its modulation, comes from outside: it depends on the step, not on the states (`modulation`).
"""

import torch
from torch import nn
from torch.nn import functional as F

from fluxserve.engine.network.layers import Keeping, large, vectors
from fluxserve.engine.network.rotation import turned
from fluxserve.engine.network.shape import Shape

EPSILON = 1e-6
PERCEPTRON = 4  # times as wide inside

OF_DOUBLE, OF_SINGLE, OF_END = 12, 3, 2
"""Rows of modulation: a double block's six for the image and then for the words, a single block's, the end's."""


class Stream(nn.Module):
    """A double block's layers for the words, or for the image."""

    def __init__(self, shape: Shape, keeping: Keeping) -> None:
        super().__init__()
        width = shape.width
        self.qkv = large(width, 3 * width, keeping)
        self.query_norm = vectors((shape.head_width,), keeping)
        self.key_norm = vectors((shape.head_width,), keeping)
        self.out = large(width, width, keeping)
        self.up = large(width, PERCEPTRON * width, keeping)
        self.down = large(PERCEPTRON * width, width, keeping)
        self._head_width = shape.head_width

    def attended(self, states: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> list[torch.Tensor]:
        """Its queries, keys and values, (1, tokens, heads, head width)."""
        query, key, value = parted(self.qkv(modulated(states, shift, scale)), self._head_width)
        return [normed(query, self.query_norm), normed(key, self.key_norm), value]

    def moved(self, states: torch.Tensor, attention: torch.Tensor, modulation: torch.Tensor) -> torch.Tensor:
        """The states, once attention and perceptron have been added. `modulation` is (6, width)."""
        _, _, gate, shift, scale, second_gate = modulation.unbind()
        states = states + gate * self.out(attention)
        inner = F.gelu(self.up(modulated(states, shift, scale)), approximate="tanh")
        return states + second_gate * self.down(inner)


class DoubleBlock(nn.Module):
    def __init__(self, shape: Shape, keeping: Keeping) -> None:
        super().__init__()
        self.image = Stream(shape, keeping)
        self.words = Stream(shape, keeping)

    def forward(
        self, words: torch.Tensor, image: torch.Tensor, modulation: torch.Tensor, table: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(1, tokens, width) each; `modulation` is (12, width), `table` that of words and image together."""
        of_image, of_words = modulation.chunk(2)
        each = zip(
            self.words.attended(words, of_words[0], of_words[1]),
            self.image.attended(image, of_image[0], of_image[1]),
            strict=True,
        )
        query, key, value = (torch.cat(pair, dim=1) for pair in each)
        seen = attention(query, key, value, table)
        of_all = torch.split(seen, [words.shape[1], image.shape[1]], dim=1)
        return self.words.moved(words, of_all[0], of_words), self.image.moved(image, of_all[1], of_image)


class SingleBlock(nn.Module):
    def __init__(self, shape: Shape, keeping: Keeping) -> None:
        super().__init__()
        width = shape.width
        self.into = large(width, (3 + PERCEPTRON) * width, keeping)
        self.query_norm = vectors((shape.head_width,), keeping)
        self.key_norm = vectors((shape.head_width,), keeping)
        self.out = large((1 + PERCEPTRON) * width, width, keeping)
        self._split = [3 * width, PERCEPTRON * width]
        self._head_width = shape.head_width

    def forward(self, states: torch.Tensor, modulation: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """(1, tokens, width), the words' before the image's; `modulation` is (3, width)."""
        shift, scale, gate = modulation.unbind()
        qkv, inner = torch.split(self.into(modulated(states, shift, scale)), self._split, dim=-1)
        query, key, value = parted(qkv, self._head_width)
        seen = attention(normed(query, self.query_norm), normed(key, self.key_norm), value, table)
        return states + gate * self.out(torch.cat((seen, F.gelu(inner, approximate="tanh")), dim=-1))


def parted(qkv: torch.Tensor, head_width: int) -> tuple[torch.Tensor, ...]:
    """(1, tokens, 3 * width) -> queries, keys and values, (1, tokens, heads, head width) each."""
    return qkv.view(*qkv.shape[:-1], 3, -1, head_width).unbind(2)


def modulated(states: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(states, states.shape[-1:], eps=EPSILON) * (1 + scale) + shift


def normed(states: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    """Each head's own root mean square made 1 (Zhang & Sennrich, 2019)."""
    return F.rms_norm(states, states.shape[-1:], gain, EPSILON)


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """(1, tokens, heads, head width) each -> (1, tokens, width)."""
    seen = F.scaled_dot_product_attention(
        turned(query, table).transpose(1, 2), turned(key, table).transpose(1, 2), value.transpose(1, 2)
    )
    return seen.transpose(1, 2).flatten(2)
