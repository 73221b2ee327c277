"""What one generation is drawn with: a member's networks, those that all members share, and what may join them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from transformers import (
    CLIPTextModel,
    CLIPTokenizer,
    SiglipImageProcessorPil,
    SiglipVisionModel,
    T5EncoderModel,
    T5Tokenizer,
)

from fluxserve.domain.catalog import Weights
from fluxserve.engine.checkpoint import Checkpoint
from fluxserve.engine.network import ControlNetwork, Residuals, Told, Transformer

Ask = Callable[[torch.Tensor, Told, int, Residuals, int], torch.Tensor]
"""A transformer, or what answers for it."""
Follow = Callable[[torch.Tensor, torch.Tensor, Told, int], Residuals]
"""A control network, or what answers for it."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What models have in common: the autoencoder, and the two text encoders with their tokenizers."""

    vae: AutoencoderKL
    clip: CLIPTextModel
    clip_tokenizer: CLIPTokenizer
    t5: T5EncoderModel
    t5_tokenizer: T5Tokenizer


@dataclass(frozen=True, slots=True)
class Own:
    """What makes a member itself: its transformer, how that is asked, and the checkpoint that it is filled from. The
    scheduler is a pattern: every picture is drawn with a copy of it."""

    transformer: Transformer
    ask: Ask
    checkpoint: Checkpoint
    scheduler: FlowMatchEulerDiscreteScheduler


@dataclass(frozen=True, slots=True)
class Controlling:
    """A control network, and how it is asked."""

    network: ControlNetwork
    follow: Follow


@dataclass(frozen=True, slots=True)
class ImagePrompt:
    """What makes words of a picture: FLUX.1 Redux's image encoder, and the embedder that makes its patches T5's."""

    processor: SiglipImageProcessorPil
    encoder: SiglipVisionModel
    embedder: ReduxImageEncoder


@dataclass(frozen=True, slots=True)
class Flux:
    """Everything one generation is drawn with. `dtype` is that of all its networks."""

    row: Weights
    own: Own
    shared: Shared
    device: torch.device
    dtype: torch.dtype
    image_prompt: ImagePrompt | None = None
    control: Controlling | None = None

    @property
    def pixels_per_token(self) -> int:
        """The side of the square of pixels that one image token stands for: 2x2 latents."""
        halvings = len(self.shared.vae.config.block_out_channels) - 1
        return 2 << halvings
