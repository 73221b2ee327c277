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
        velocity = prepared.velocity(latents, timestep)
        latents = prepared.scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        on_step(number, len(prepared.timesteps))
    return latents
