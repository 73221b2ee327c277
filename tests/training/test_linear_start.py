"""The linear start: a fresh autoencoder passes something of a picture on before its first step."""

import numpy as np
import torch
from diffusers import AutoencoderKL

from training import vae, world
from training.linear_start import start_linear

CONFIG = {**vae.CONFIG, "block_out_channels": (8, 16, 24, 32, 32), "latent_channels": 16, "norm_num_groups": 4}


def mean_square_error(model: AutoencoderKL, pictures: torch.Tensor) -> float:
    with torch.no_grad():
        again = model.decode(model.encode(pictures).latent_dist.mean).sample
    return float(((again - pictures) ** 2).mean())


def test_a_linear_start_improves_a_fresh_autoencoder() -> None:
    torch.manual_seed(0)
    model = AutoencoderKL(**CONFIG)
    rng = np.random.default_rng(9)
    unseen = vae.to_tensor(np.stack([world.paint(world.imagine(rng, held_out=True))[:128, :128] for _ in range(8)]))
    fresh = mean_square_error(model, unseen)
    start_linear(model, vae.crops(rng, 60, 64))
    assert mean_square_error(model, unseen) < 0.5 * fresh
