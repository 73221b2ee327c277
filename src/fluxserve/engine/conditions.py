"""Prepare: what each kind of generation puts beside the noise. One function a kind; the loop is the same for all.

A kind differs from others in its first latents, its schedule and what the transformer is shown at a step. The last is a
function, `velocity`: a kind that adds channels, reference tokens or a control network's residuals does it there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from fluxserve.domain.generation import Generation, ImageToImage, Kind, TextToImage
from fluxserve.engine.latents import noise, pack, positions
from fluxserve.engine.pictures import encode_picture, picture_of
from fluxserve.engine.schedule import late_start, schedule
from fluxserve.engine.text import Embeddings, TextEncoder
from fluxserve.engine.weights import Flux

Velocity = Callable[[torch.Tensor, torch.Tensor, Embeddings], torch.Tensor]
"""(latents, timestep, words) -> the direction from picture to noise, in the shape of the latents."""


@dataclass(frozen=True, slots=True)
class Words:
    """What a picture shall show and, if the caller said so, what it shall not."""

    prompt: Embeddings
    negative: Embeddings | None


@dataclass(frozen=True, slots=True)
class Prepared:
    """One picture before its first step, of `rows` x `columns` tokens.

    `latents` is (1, tokens, channels). `scheduler` is this picture's own and stands before its first step; `timesteps`,
    from 1000 towards 0, are those to be taken.
    """

    latents: torch.Tensor
    rows: int
    columns: int
    words: Words
    scheduler: FlowMatchEulerDiscreteScheduler
    timesteps: torch.Tensor
    velocity: Velocity
    negative_guidance: float


def encode(encoder: TextEncoder, flux: Flux, kind: Kind) -> Words:
    return Words(
        prompt=encoder.encode(flux, kind.prompt),
        negative=encoder.encode(flux, kind.negative_prompt) if kind.negative_prompt else None,
    )


def prepare(
    flux: Flux, generation: Generation, images: Mapping[str, bytes], words: Words, size: tuple[int, int], seed: int
) -> Prepared:
    """The picture of `seed`, to be drawn at `size` (width, height in pixels)."""
    match generation.kind:
        case TextToImage():
            return text_to_image(flux, generation, words, size, seed)
        case ImageToImage() as kind:
            return image_to_image(flux, generation, kind, images[kind.image], words, size, seed)


def text_to_image(flux: Flux, generation: Generation, words: Words, size: tuple[int, int], seed: int) -> Prepared:
    """Noise, the whole schedule, and nothing beside the words."""
    rows, columns = _tokens(flux, size)
    generator = torch.Generator("cpu").manual_seed(seed)
    latents = noise(generator, flux.shared.vae.config.latent_channels, rows, columns, flux.device, flux.dtype)
    scheduler = schedule(flux.own.scheduler, generation.steps, rows * columns, flux.device)
    return Prepared(
        pack(latents), rows, columns, words, scheduler, scheduler.timesteps,
        _velocity(flux, generation, rows, columns), flux.row.negative_guidance,
    )  # fmt: skip


def image_to_image(
    flux: Flux, generation: Generation, kind: ImageToImage, image: bytes, words: Words, size: tuple[int, int], seed: int
) -> Prepared:
    """Another picture under noise, and the end of the schedule: as much of it as the denoising strength says."""
    rows, columns = _tokens(flux, size)
    generator = torch.Generator("cpu").manual_seed(seed)
    clean = encode_picture(flux.shared.vae, picture_of(image, size), generator, flux.device, flux.dtype)
    grain = noise(generator, flux.shared.vae.config.latent_channels, rows, columns, flux.device, flux.dtype)
    scheduler = schedule(flux.own.scheduler, generation.steps, rows * columns, flux.device)
    timesteps = late_start(scheduler, generation.steps, kind.denoising_strength)
    latents = scheduler.scale_noise(clean, timesteps[:1], grain)
    return Prepared(
        pack(latents), rows, columns, words, scheduler, timesteps,
        _velocity(flux, generation, rows, columns), flux.row.negative_guidance,
    )  # fmt: skip


def _tokens(flux: Flux, size: tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) of a picture's image tokens."""
    width, height = size
    return height // flux.pixels_per_token, width // flux.pixels_per_token


def _velocity(flux: Flux, generation: Generation, rows: int, columns: int) -> Velocity:
    """The transformer on the latents alone."""
    transformer = flux.own.transformer
    image_ids = positions(rows, columns, flux.device, flux.dtype)
    text_ids = torch.zeros(flux.row.prompt_tokens, 3, device=flux.device, dtype=flux.dtype)
    guidance = _embedded_guidance(flux, generation)

    def velocity(latents: torch.Tensor, timestep: torch.Tensor, words: Embeddings) -> torch.Tensor:
        answer: torch.Tensor = transformer(
            hidden_states=latents,
            # Rounded to the latents' type before it is divided, as the model was used when it was published.
            timestep=timestep.expand(1).to(latents.dtype) / 1000,
            guidance=guidance,
            pooled_projections=words.pooled,
            encoder_hidden_states=words.sequence,
            txt_ids=text_ids,
            img_ids=image_ids,
            return_dict=False,
        )[0]
        return answer

    return velocity


def _embedded_guidance(flux: Flux, generation: Generation) -> torch.Tensor | None:
    """The guidance scale as an input, (1,), for models that were taught to take one."""
    if not flux.own.transformer.config.guidance_embeds:
        return None
    return torch.tensor([generation.guidance_scale], device=flux.device, dtype=torch.float32)
