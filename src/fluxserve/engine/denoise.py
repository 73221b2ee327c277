"""Denoise: the loop, the same for every kind of generation. It holds no state between pictures."""

from collections.abc import Callable

import torch

from fluxserve.engine.conditions import Prepared

OnStep = Callable[[int, int], None]
"""Told (step, steps) after each step."""
IsCancelled = Callable[[], bool]


class StoppedError(Exception):
    """The drawing was told to stop, and did so before a step."""


def denoise(prepared: Prepared, on_step: OnStep, is_cancelled: IsCancelled) -> torch.Tensor:
    """From noise to the picture's latents, (1, tokens, channels)."""
    latents = prepared.latents
    for number, timestep in enumerate(prepared.timesteps, start=1):
        if is_cancelled():
            raise StoppedError
        velocity = _guided_velocity(prepared, latents, timestep)
        latents = prepared.scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        on_step(number, len(prepared.timesteps))
    return latents


def _guided_velocity(prepared: Prepared, latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """Classifier-free guidance where there is a negative prompt: away from it, through the prompt and beyond."""
    wanted = prepared.velocity(latents, timestep, prepared.words.prompt)
    if prepared.words.negative is None:
        return wanted
    unwanted = prepared.velocity(latents, timestep, prepared.words.negative)
    return unwanted + prepared.negative_guidance * (wanted - unwanted)
