"""Encode: a prompt to the two embeddings FLUX listens to. It keeps the last ones, since prompts come back.

As FLUX does it: T5 reads the prompt padded to the model's fixed length, and without an attention mask, so that the
padding is part of the picture; CLIP gives one vector for the whole prompt. Longer prompts are cut.
"""

from dataclasses import dataclass

import torch

from fluxserve.engine.flux import Flux
from fluxserve.engine.kept import Kept
from fluxserve.engine.plan import PROMPTS_KEPT
from fluxserve.engine.transfer import to_device

CLIP_TOKENS = 77


@dataclass(frozen=True, slots=True)
class Embeddings:
    """One prompt as the transformer takes it. Shared between pictures: never to be changed in place.

    `sequence` is T5's (1, prompt tokens, width), `pooled` CLIP's (1, width).
    """

    sequence: torch.Tensor
    pooled: torch.Tensor


@dataclass(frozen=True, slots=True)
class Words:
    """What a picture shall show and, if the caller said so, what it shall not."""

    prompt: Embeddings
    negative: Embeddings | None


class TextEncoder:
    """Encodes prompts; the `most_kept` used last are remembered."""

    def __init__(self, most_kept: int = PROMPTS_KEPT) -> None:
        self._kept: Kept[tuple[str, int, str], Embeddings] = Kept(most_kept)

    def encode(self, flux: Flux, prompt: str) -> Embeddings:
        key = (flux.row.shared, flux.row.prompt_tokens, prompt)
        return self._kept.get(key, lambda: Embeddings(_sequence(flux, prompt), _pooled(flux, prompt)))


def _sequence(flux: Flux, prompt: str) -> torch.Tensor:
    shared, length = flux.shared, flux.row.prompt_tokens
    tokens = shared.t5_tokenizer(
        prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    ).input_ids
    hidden: torch.Tensor = shared.t5(to_device(tokens, flux.device)).last_hidden_state
    return hidden


def _pooled(flux: Flux, prompt: str) -> torch.Tensor:
    shared = flux.shared
    tokens = shared.clip_tokenizer(
        prompt, padding="max_length", max_length=CLIP_TOKENS, truncation=True, return_tensors="pt"
    ).input_ids
    pooled: torch.Tensor = shared.clip(to_device(tokens, flux.device)).pooler_output
    return pooled
