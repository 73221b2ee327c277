"""A picture as words: its patches become tokens that follow those of the prompt, as in FLUX.1 Redux."""

import torch

from fluxserve.engine.flux import Flux
from fluxserve.engine.png import decode_png


def patches_of(flux: Flux, png: bytes) -> torch.Tensor:
    """(1, patches, width), to follow a prompt's (1, prompt tokens, width)."""
    redux = flux.image_prompt
    if redux is None:
        raise TypeError(f"{flux.row.own} takes no pictures for words")
    pixels = redux.processor.preprocess(images=decode_png(png), return_tensors="pt").pixel_values
    seen = redux.encoder(pixel_values=pixels.to(flux.device, flux.dtype)).last_hidden_state
    patches: torch.Tensor = redux.embedder(seen).image_embeds
    return patches
