"""What the transformer is asked at each step: which way from the picture to the noise?

It is shown the latents, the words and whatever a kind of generation puts beside them, the same at every step.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from fluxserve.engine.flux import Controlling, Flux
from fluxserve.engine.latents import positions
from fluxserve.engine.network import Residuals, Told
from fluxserve.engine.text import Embeddings, Words

Velocity = Callable[[torch.Tensor, int], torch.Tensor]
"""(latents, number of the step, from 0 on) -> the direction from picture to noise, in the shape of the latents."""

REFERENCE = 1  # the first coordinate of another picture's tokens; 0 is that of the one that is drawn
NOTHING_MORE = Residuals()


@dataclass(frozen=True, slots=True)
class Reference:
    """Another picture's tokens, after the latents' own: (1, rows * columns, channels)."""

    latents: torch.Tensor
    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class ControlMap:
    """What a control network is shown: a map's tokens, (1, tokens, channels), and its type's number if it takes one."""

    controlling: Controlling
    latents: torch.Tensor
    mode: int | None
    strength: float


@dataclass(frozen=True, slots=True)
class Beside:
    """`channels` are more of them for each token of the latents, (1, tokens, more), for members made to take them."""

    channels: torch.Tensor | None = None
    reference: Reference | None = None
    control: ControlMap | None = None


def velocity_of(
    flux: Flux,
    guidance_scale: float | None,
    rows: int,
    columns: int,
    words: Words,
    beside: Beside,
    timesteps: torch.Tensor,
) -> Velocity:
    """For a picture of `rows` x `columns` tokens, at these timesteps one after another."""
    transformer, ask, own = flux.own.transformer, flux.own.ask, positions(rows, columns)
    places = [own]
    if beside.reference is not None:
        places.append(positions(beside.reference.rows, beside.reference.columns, REFERENCE))

    def told(embeddings: Embeddings) -> Told:
        return transformer.trunk.tell(
            embeddings.sequence, embeddings.pooled, timesteps, guidance_scale, torch.cat(places)
        )

    wanted = told(words.prompt)
    unwanted = None if words.negative is None else told(words.negative)
    follow = None
    if beside.control is not None:
        follow = _followed(beside.control, words.prompt, timesteps, guidance_scale, own)

    def velocity(latents: torch.Tensor, step: int) -> torch.Tensor:
        tokens, answered = _shown(latents, beside), latents.shape[1]
        # Asked once: what the words leave out, the map says for both passes.
        residuals = NOTHING_MORE if follow is None else follow(latents, step)
        answer = ask(tokens, wanted, step, residuals, answered)
        if unwanted is None:
            return answer
        # Classifier-free guidance: away from what is not wanted, through the prompt and beyond.
        away = ask(tokens, unwanted, step, residuals, answered)
        return away + flux.row.negative_guidance * (answer - away)

    return velocity


def _followed(
    control: ControlMap,
    words: Embeddings,
    timesteps: torch.Tensor,
    guidance_scale: float | None,
    positions: torch.Tensor,
) -> Callable[[torch.Tensor, int], Residuals]:
    network = control.controlling.network
    told = network.trunk.tell(
        words.sequence, words.pooled, timesteps, guidance_scale, positions, network.first_word(control.mode)
    )
    seen = network.map_in(control.latents)

    def follow(latents: torch.Tensor, step: int) -> Residuals:
        return control.controlling.follow(latents, seen, told, step).times(control.strength)

    return follow


def _shown(latents: torch.Tensor, beside: Beside) -> torch.Tensor:
    if beside.channels is not None:
        latents = torch.cat((latents, beside.channels), dim=2)
    if beside.reference is not None:
        latents = torch.cat((latents, beside.reference.latents), dim=1)
    return latents
