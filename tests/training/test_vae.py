"""The autoencoder's program: a sitting leaves weights behind, the next one goes on from there."""

import json

import numpy as np
import torch
from diffusers import AutoencoderKL

from tests.training.family import MINUTES, Family
from training import vae


def test_pictures_become_tensors_between_minus_one_and_one() -> None:
    pictures = np.zeros((2, 4, 6, 3), np.uint8)
    pictures[1, 2, 3] = (255, 0, 255)
    tensor = vae.to_tensor(pictures)
    assert tensor.shape == (2, 3, 4, 6)
    assert tensor[1, :, 2, 3].tolist() == [1.0, -1.0, 1.0]


def test_crops_have_the_size_and_number_asked_for() -> None:
    assert vae.crops(np.random.default_rng(0), 5, 64).shape == (5, 3, 64, 64)


def test_a_second_sitting_goes_on_from_the_first(family: Family) -> None:
    before = family.steps("vae")
    assert before > 0
    vae.train(MINUTES)
    assert family.steps("vae") > before


def test_the_weights_are_written_in_bfloat16_with_their_shift_and_scale(family: Family) -> None:
    assert family.steps("vae") > 0
    config = json.loads((vae.FOLDER / "config.json").read_text())
    assert config["scaling_factor"] > 0
    assert np.isfinite(config["shift_factor"])
    model = AutoencoderKL.from_pretrained(vae.FOLDER)
    latents = model.encode(torch.zeros(1, 3, 256, 256)).latent_dist.mean
    assert latents.shape == (1, config["latent_channels"], 16, 16)
