"""Denoise: the loop, the same for every kind of generation. It holds no state between pictures."""

from collections.abc import Callable
from functools import partial

import torch

from fluxserve.engine.conditions import Prepared

Estimate = Callable[[], torch.Tensor]
"""Makes the clean latents, as they are expected after a step, in the shape of the latents. It changes nothing."""
OnStep = Callable[[int, int, Estimate], None]
"""Told (step, steps, estimate) after each step."""
IsCancelled = Callable[[], bool]


class StoppedError(Exception):
    """The drawing was told to stop, and did so before a step."""


def denoise(prepared: Prepared, on_step: OnStep, is_cancelled: IsCancelled) -> torch.Tensor:
    """From noise to the picture's latents, (1, tokens, channels)."""
    latents = prepared.latents
    for step, timestep in enumerate(prepared.timesteps):
        if is_cancelled():
            raise StoppedError
        velocity = prepared.velocity(latents, step)
        estimate = partial(_clean, latents, velocity, timestep)
        latents = prepared.scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        on_step(step + 1, len(prepared.timesteps), estimate)
    return latents


def _clean(latents: torch.Tensor, velocity: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """The latents without their noise, if the way there is straight. `timestep` is theirs, the one before the step."""
    return latents.float() - timestep / 1000 * velocity.float()
