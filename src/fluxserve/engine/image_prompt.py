"""A picture as words: its patches become tokens that follow those of the prompt, as in FLUX.1 Redux."""

from dataclasses import replace

import torch

from fluxserve.engine.png import decode_png
from fluxserve.engine.text import Embeddings
from fluxserve.engine.weights import Flux


def with_image(flux: Flux, words: Embeddings, png: bytes) -> Embeddings:
    """The words and after them the picture, (1, prompt tokens + patches, width). The pooled words stay as they are."""
    redux = flux.image_prompt
    if redux is None:
        raise TypeError(f"{flux.row.own} takes no pictures for words")
    pixels = redux.processor.preprocess(images=decode_png(png), return_tensors="pt").pixel_values
    seen = redux.encoder(pixel_values=pixels.to(flux.device, flux.dtype)).last_hidden_state
    patches: torch.Tensor = redux.embedder(seen).image_embeds
    return replace(words, sequence=torch.cat((words.sequence, patches), dim=1))
