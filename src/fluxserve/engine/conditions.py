"""Prepare: what each kind of generation puts beside the noise. One function a kind; the loop is the same for all.

A kind differs from others in its first latents, its schedule and what the transformer is shown beside the latents at a
step.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from fluxserve.domain.catalog import reference_size
from fluxserve.domain.generation import (
    Edit,
    Generation,
    ImageToImage,
    Inpaint,
    Kind,
    Outpaint,
    TextToImage,
    Variation,
)
from fluxserve.engine.canvas import canvas_of, reduced
from fluxserve.engine.control import control_map
from fluxserve.engine.flux import Flux
from fluxserve.engine.latents import noise, pack, pack_mask
from fluxserve.engine.pictures import latents_of, picture_from, picture_of, size_of
from fluxserve.engine.png import Pixels
from fluxserve.engine.schedule import late_start, schedule
from fluxserve.engine.seen import Seen
from fluxserve.engine.text import TextEncoder, Words
from fluxserve.engine.velocity import Beside, Reference, Velocity, velocity_of


@dataclass(frozen=True, slots=True)
class Prepared:
    """One picture before its first step, of `rows` x `columns` tokens.

    `latents` is (1, tokens, channels). `scheduler` is this picture's own and stands before its first step; `timesteps`,
    from 1000 towards 0, are those to be taken.
    """

    latents: torch.Tensor
    rows: int
    columns: int
    scheduler: FlowMatchEulerDiscreteScheduler
    timesteps: torch.Tensor
    velocity: Velocity


@dataclass(frozen=True, slots=True)
class Asked:
    """All that a kind prepares a picture from. `size` is (width, height), the pixels to be drawn.

    `generator` runs on the CPU whatever the device. The order in which it is drawn from is part of what a seed means.
    """

    flux: Flux
    generation: Generation
    images: Mapping[str, bytes]
    words: Words
    seen: Seen
    size: tuple[int, int]
    generator: torch.Generator

    @property
    def rows(self) -> int:
        return self.size[1] // self.flux.pixels_per_token

    @property
    def columns(self) -> int:
        return self.size[0] // self.flux.pixels_per_token

    def noise(self) -> torch.Tensor:
        """(1, latent channels, 2 * rows, 2 * columns)."""
        channels = self.flux.shared.vae.config.latent_channels
        return noise(self.generator, channels, self.rows, self.columns, self.flux.device, self.flux.dtype)

    def scheduler(self) -> FlowMatchEulerDiscreteScheduler:
        """Before its first step."""
        return schedule(self.flux.own.scheduler, self.generation.steps, self.rows * self.columns)

    def encoded(self, key: Hashable, picture: Callable[[], torch.Tensor]) -> torch.Tensor:
        """A picture's latents, drawn from the autoencoder's posterior. `key` says which picture it is."""
        return latents_of(self.flux.shared.vae, self.seen.posterior(self.flux, key, picture), self.generator)


def encode(encoder: TextEncoder, flux: Flux, kind: Kind) -> Words:
    return Words(
        prompt=encoder.encode(flux, kind.prompt),
        negative=encoder.encode(flux, kind.negative_prompt) if kind.negative_prompt else None,
    )


def prepare(
    flux: Flux,
    generation: Generation,
    images: Mapping[str, bytes],
    words: Words,
    seen: Seen,
    annotated: Pixels | None,
    size: tuple[int, int],
    seed: int,
) -> Prepared:
    """The picture of `seed`, to be drawn at `size` (width, height in pixels). `annotated` is its control's map."""
    asked = Asked(flux, generation, images, words, seen, size, torch.Generator("cpu").manual_seed(seed))
    beside = Beside()
    if generation.control is not None and annotated is not None:
        # A control network joins every kind alike: its map is the first thing that the generator draws for.
        control = generation.control
        shown = control_map(flux, control, images[control.image], annotated, seen, asked.generator)
        beside = Beside(control=shown)
    match generation.kind:
        case TextToImage():
            return text_to_image(asked, beside)
        case ImageToImage() as kind:
            return image_to_image(asked, beside, kind)
        case Inpaint() | Outpaint() as kind:
            return fill(asked, beside, kind)
        case Variation() as kind:
            return variation(asked, beside, kind)
        case Edit() as kind:
            return edit(asked, beside, kind)


def text_to_image(asked: Asked, beside: Beside) -> Prepared:
    """Noise and the whole schedule."""
    return _whole(asked, beside, asked.noise())


def image_to_image(asked: Asked, beside: Beside, kind: ImageToImage) -> Prepared:
    """Another picture under noise, and the end of the schedule: as much of it as the denoising strength says."""
    png = asked.images[kind.image]
    clean = asked.encoded((png, asked.size), lambda: picture_of(png, asked.size))
    grain = asked.noise()
    scheduler = asked.scheduler()
    timesteps = late_start(scheduler, asked.generation.steps, kind.denoising_strength)
    return _prepared(asked, beside, scheduler.scale_noise(clean, timesteps[:1], grain), scheduler, timesteps)


def fill(asked: Asked, beside: Beside, kind: Inpaint | Outpaint) -> Prepared:
    """Noise and the whole schedule; beside each token what is known of the picture there, and the mask."""
    canvas = reduced(canvas_of(kind, asked.images), *asked.size)
    mask = torch.from_numpy(canvas.mask)[None, None].to(torch.float32)
    # FLUX.1 Fill's pipeline encodes the picture first and multiplies that by zero: only its noise is still drawn.
    asked.noise()
    latents = asked.noise()
    key = (asked.images[kind.image], canvas.mask.tobytes(), asked.size)
    known = asked.encoded(key, lambda: picture_from(canvas.picture) * (1 - mask))
    channels = torch.cat((pack(known), pack_mask(mask, asked.rows, asked.columns).to(known)), dim=2)
    return _whole(asked, replace(beside, channels=channels), latents)


def variation(asked: Asked, beside: Beside, kind: Variation) -> Prepared:
    """Noise and the whole schedule; the other picture joins the words."""
    words = asked.words.prompt
    patches = asked.seen.patches(asked.flux, asked.images[kind.image])
    prompt = replace(words, sequence=torch.cat((words.sequence, patches), dim=1))
    return _whole(replace(asked, words=replace(asked.words, prompt=prompt)), beside, asked.noise())


def edit(asked: Asked, beside: Beside, kind: Edit) -> Prepared:
    """Noise and the whole schedule; the tokens of the picture to be changed come after the picture's own."""
    png = asked.images[kind.image]
    width, height = reference_size(asked.flux.row, *size_of(png))
    posterior = asked.seen.posterior(asked.flux, (png, (width, height)), lambda: picture_of(png, (width, height)))
    side = asked.flux.pixels_per_token
    reference = Reference(pack(latents_of(asked.flux.shared.vae, posterior, None)), height // side, width // side)
    return _whole(asked, replace(beside, reference=reference), asked.noise())


def _whole(asked: Asked, beside: Beside, latents: torch.Tensor) -> Prepared:
    """From these latents through the whole schedule."""
    scheduler = asked.scheduler()
    return _prepared(asked, beside, latents, scheduler, scheduler.timesteps)


def _prepared(
    asked: Asked,
    beside: Beside,
    latents: torch.Tensor,
    scheduler: FlowMatchEulerDiscreteScheduler,
    timesteps: torch.Tensor,
) -> Prepared:
    """From these latents, (1, channels, 2 * rows, 2 * columns), through these timesteps."""
    flux, rows, columns = asked.flux, asked.rows, asked.columns
    return Prepared(
        latents=pack(latents),
        rows=rows,
        columns=columns,
        scheduler=scheduler,
        timesteps=timesteps,
        velocity=velocity_of(flux, _guidance_scale(asked), rows, columns, asked.words, beside, timesteps),
    )


def _guidance_scale(asked: Asked) -> float | None:
    scale = asked.generation.guidance_scale
    return None if scale is None else min(scale, asked.flux.row.most_guidance)
