"""What the transformer is asked at each step: which way from the picture to the noise?

It is shown the latents, the words and whatever a kind of generation puts beside them, the same at every step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import FluxControlNetModel, FluxTransformer2DModel

from fluxserve.engine.latents import positions
from fluxserve.engine.text import Embeddings, Words
from fluxserve.engine.weights import Flux

Velocity = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(latents, timestep) -> the direction from picture to noise, in the shape of the latents."""

PICTURE, REFERENCE = 0, 1  # the first of a token's coordinates


@dataclass(frozen=True, slots=True)
class Reference:
    """Another picture's tokens, after the latents' own: (1, rows * columns, channels)."""

    latents: torch.Tensor
    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class ControlMap:
    """What a control network is shown: a map's tokens, (1, tokens, channels), and its type's number, (1, 1), if it
    takes one."""

    network: FluxControlNetModel
    latents: torch.Tensor
    mode: torch.Tensor | None
    strength: float


@dataclass(frozen=True, slots=True)
class Beside:
    """`channels` are more of them for each token of the latents, (1, tokens, more), for members made to take them."""

    channels: torch.Tensor | None = None
    reference: Reference | None = None
    control: ControlMap | None = None


def velocity_of(
    flux: Flux, guidance_scale: float | None, rows: int, columns: int, words: Words, beside: Beside
) -> Velocity:
    """For a picture of `rows` x `columns` tokens."""
    transformer, control = flux.own.transformer, beside.control
    ids = _ids(flux, rows, columns, beside.reference)
    guidance = _embedded(guidance_scale, transformer, flux.device)
    control_guidance = _embedded(guidance_scale, control.network, flux.device) if control else None

    def told(embeddings: Embeddings, timestep: torch.Tensor) -> dict[str, Any]:
        return {
            # Rounded to the latents' type before it is divided, as the model was used when it was published.
            "timestep": timestep.expand(1).to(flux.dtype) / 1000,
            "pooled_projections": embeddings.pooled,
            "encoder_hidden_states": embeddings.sequence,
            "txt_ids": torch.zeros(embeddings.sequence.shape[1], 3, device=flux.device, dtype=flux.dtype),
            "return_dict": False,
        }

    def velocity(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        wanted = told(words.prompt, timestep)
        shown: dict[str, Any] = {"hidden_states": _shown(latents, beside), "img_ids": ids, "guidance": guidance}
        if control is not None:  # asked once: what the words leave out, its map says for both passes
            double, single = control.network(
                hidden_states=latents,
                img_ids=ids,
                guidance=control_guidance,
                controlnet_cond=control.latents,
                controlnet_mode=control.mode,
                conditioning_scale=control.strength,
                **wanted,
            )
            shown |= {"controlnet_block_samples": double, "controlnet_single_block_samples": single}
        answer: torch.Tensor = transformer(**shown, **wanted)[0][:, : latents.shape[1]]
        if words.negative is None:
            return answer
        # Classifier-free guidance: away from what is not wanted, through the prompt and beyond.
        unwanted: torch.Tensor = transformer(**shown, **told(words.negative, timestep))[0][:, : latents.shape[1]]
        return unwanted + flux.row.negative_guidance * (answer - unwanted)

    return velocity


def _ids(flux: Flux, rows: int, columns: int, reference: Reference | None) -> torch.Tensor:
    own = positions(rows, columns, flux.device, flux.dtype, PICTURE)
    if reference is None:
        return own
    return torch.cat((own, positions(reference.rows, reference.columns, flux.device, flux.dtype, REFERENCE)))


def _shown(latents: torch.Tensor, beside: Beside) -> torch.Tensor:
    if beside.channels is not None:
        latents = torch.cat((latents, beside.channels), dim=2)
    if beside.reference is not None:
        latents = torch.cat((latents, beside.reference.latents), dim=1)
    return latents


def _embedded(
    guidance_scale: float | None, network: FluxTransformer2DModel | FluxControlNetModel, device: torch.device
) -> torch.Tensor | None:
    """The guidance scale as an input, (1,), for networks that were taught to take one."""
    if not network.config.guidance_embeds:
        return None
    return torch.tensor([guidance_scale], device=device, dtype=torch.float32)
