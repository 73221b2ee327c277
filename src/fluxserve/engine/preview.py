"""Previews: how a picture looks while it is still being drawn, small and for next to nothing.

Nothing is decoded: each position of the latents becomes one pixel, by a linear projection of its channels to red, green
and blue. The projection is fitted once for each autoencoder, at its first preview: it encodes a test card, and the
projection is the one that comes nearest to the card's colours (least squares).

Whether a picture may be shown is not known here. The engine makes no previews where there is a safety check.
"""

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch.nn import functional as F

from fluxserve.engine.decode import to_levels
from fluxserve.engine.latents import unpack
from fluxserve.engine.pictures import latents_of, look, picture_from
from fluxserve.engine.png import Pixels, encode_png

CARD_SIDE = 256
GRADIENTS = 8  # along each side of the card
PATCHES = 40
SHORTEST_PATCH, LONGEST_PATCH = 16, 64


@dataclass(frozen=True, slots=True)
class Projection:
    """From a token's four latents to their four colours, in -1..1 and packed as the latents are: `weight` is
    (12, 4 * channels), `bias` (12,)."""

    weight: torch.Tensor
    bias: torch.Tensor


class Previews:
    """Those of all autoencoders in this process. A projection is kept as long as its autoencoder is."""

    def __init__(self) -> None:
        self._projections: WeakKeyDictionary[AutoencoderKL, Projection] = WeakKeyDictionary()

    def paint(self, vae: AutoencoderKL, latents: torch.Tensor, rows: int, columns: int) -> bytes:
        """A PNG file of clean `latents`, (1, rows * columns, channels): 2 * columns pixels wide, 2 * rows high."""
        if vae not in self._projections:
            self._projections[vae] = fit(vae)
        projection = self._projections[vae]
        # Projected first, then unpacked: there is less to move.
        colours = F.linear(latents.float(), projection.weight, projection.bias)
        return encode_png(to_levels(unpack(colours, rows, columns)).cpu().numpy())


@torch.inference_mode()
def fit(vae: AutoencoderKL) -> Projection:
    """The projection that is best for the test card: the same each time, and no generator is drawn from."""
    shown = picture_from(card())
    latents = latents_of(vae, look(vae, shown, vae.device, vae.dtype), None)
    _, _, height, width = latents.shape
    colours = F.adaptive_avg_pool2d(shown, (height, width))
    # gelsd, which only CPUs have, bears channels that say the same as others.
    known = F.pad(_positions(latents), (0, 1), value=1.0)
    solution = torch.linalg.lstsq(known, _positions(colours), driver="gelsd").solution.float()
    # In a token the four values of each channel lie together.
    weight, bias = torch.kron(solution[:-1].T.contiguous(), torch.eye(4)), solution[-1].repeat_interleave(4)
    return Projection(weight.to(vae.device), bias.to(vae.device))


def card() -> Pixels:
    """Gradients of random colours and, anywhere over them, flat patches: slopes, plains and edges to learn from."""
    random = np.random.default_rng(0)
    corners = random.integers(0, 256, (GRADIENTS, GRADIENTS, 3), np.uint8)
    pixels = np.array(Image.fromarray(corners).resize((CARD_SIDE, CARD_SIDE), Image.Resampling.BILINEAR))
    for _ in range(PATCHES):
        width, height = random.integers(SHORTEST_PATCH, LONGEST_PATCH, 2)
        left, top = random.integers(0, CARD_SIDE - width), random.integers(0, CARD_SIDE - height)
        pixels[top : top + height, left : left + width] = random.integers(0, 256, 3)
    return pixels


def _positions(image: torch.Tensor) -> torch.Tensor:
    """(1, channels, height, width) -> (height * width, channels)."""
    return image[0].flatten(1).T.cpu().double()
