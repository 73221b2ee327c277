"""The noise levels a picture passes through, from 1 (noise alone) towards 0 (the picture).

The levels are evenly spaced and then shifted: models with dynamic shifting spend more of their steps at high noise the
more tokens a picture has (Esser et al., "Scaling Rectified Flow Transformers", 2024).
"""

import copy

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler


def schedule(pattern: FlowMatchEulerDiscreteScheduler, steps: int, tokens: int) -> FlowMatchEulerDiscreteScheduler:
    """A scheduler for one picture of `tokens` image tokens, ready for its first step.

    A scheduler counts its steps, so each picture has a copy of its own. Its numbers stay on the CPU, which reads them.
    """
    scheduler = copy.deepcopy(pattern)
    sigmas = np.linspace(1.0, 1 / steps, steps)
    scheduler.set_timesteps(sigmas=sigmas, device="cpu", mu=_shift(pattern, tokens))
    # Told where it begins, it need not look its first timestep up, which would wait for the device.
    scheduler.set_begin_index(0)
    return scheduler


def late_start(scheduler: FlowMatchEulerDiscreteScheduler, steps: int, denoising_strength: float) -> torch.Tensor:
    """Let a scheduler of `steps` begin where only `denoising_strength` of its steps are left. Returns those timesteps,
    at least one."""
    first = int(max(steps - steps * denoising_strength, 0))  # rounded as diffusers does it
    scheduler.set_begin_index(first)
    timesteps: torch.Tensor = scheduler.timesteps[first:]
    return timesteps


def _shift(pattern: FlowMatchEulerDiscreteScheduler, tokens: int) -> float:
    """mu, on the line through (fewest tokens, base shift) and (most tokens, greatest shift)."""
    config = pattern.config
    slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
    mu: float = tokens * slope + (config.base_shift - slope * config.base_image_seq_len)
    return mu
