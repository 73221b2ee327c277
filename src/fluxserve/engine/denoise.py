"""Denoise: the loop, the same for every kind of generation. It holds no state between pictures."""

from collections.abc import Callable
from functools import partial

import torch

from fluxserve.engine.conditions import Prepared
from fluxserve.engine.skipping import Trend, computed
from fluxserve.engine.transfer import Lead

Estimate = Callable[[], torch.Tensor]
"""Makes the clean latents, as they are expected after a step, in the shape of the latents. It changes nothing."""
OnStep = Callable[[int, int, Estimate], None]
"""Told (step, steps, estimate) after each step."""
IsCancelled = Callable[[], bool]


class StoppedError(Exception):
    """The drawing was told to stop, and did so before a step."""


def denoise(prepared: Prepared, stride: int, on_step: OnStep, is_cancelled: IsCancelled) -> torch.Tensor:
    """From noise to the picture's latents, (1, tokens, channels). `stride` skips steps (`skipping`); 1 skips none."""
    latents, trend, lead = prepared.latents, Trend(), Lead(prepared.latents.device)
    steps, times = len(prepared.timesteps), prepared.timesteps.tolist()
    is_computed = computed(steps, stride)
    for step, timestep in enumerate(prepared.timesteps):
        if is_cancelled():
            raise StoppedError
        if is_computed[step]:
            velocity = prepared.velocity(latents, step)
            trend.note(times[step], velocity)
        else:
            velocity = trend.at(times[step])
        estimate = partial(_clean, latents, velocity, timestep)
        latents = prepared.scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        lead.step()
        on_step(step + 1, steps, estimate)
    return latents


def _clean(latents: torch.Tensor, velocity: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """The latents without their noise, if the way there is straight. `timestep` is theirs, the one before the step."""
    return latents.float() - timestep / 1000 * velocity.float()
