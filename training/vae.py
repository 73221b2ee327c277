"""Teach the autoencoder: 256x256 pixels to a 16x16 map of 32 channels and back.

It learns on crops, which show more of the things and less of the backgrounds than whole pictures do; the last part of
a sitting uses whole pictures, because the normalisation layers see a whole picture's statistics when the model serves.

    python -m training.vae --minutes 30
"""

import argparse

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.nn import functional as F

from training import world
from training.linear_start import start_linear
from training.sitting import WEIGHTS, Sitting, device, publish

FOLDER = WEIGHTS / "vae"
CONFIG = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 5,
    "up_block_types": ("UpDecoderBlock2D",) * 5,
    "block_out_channels": (32, 48, 96, 160, 160),
    "layers_per_block": 1,
    "latent_channels": 32,
    "norm_num_groups": 16,
    "sample_size": 256,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
DIVERGENCE_WEIGHT = 1e-4
RATE = 3e-4
EVENNESS = 0.7
LATENT_NOISE = 0.05


def crops(rng: np.random.Generator, count: int, side: int) -> torch.Tensor:
    """`count` pieces of freshly painted scenes, (count, 3, side, side) in [-1, 1], most of them on a thing."""
    pieces: list[np.ndarray] = []
    while len(pieces) < count:
        scene = world.imagine(rng, held_out=False)
        picture = world.paint(scene)
        for _ in range(2 if side < 256 else 1):
            item = scene.items[rng.integers(len(scene.items))]
            middle = rng.integers(0, item.side, 2) - side // 2
            top, left = np.clip((item.top + middle[0], item.left + middle[1]), 0, 256 - side)
            if rng.random() < 0.5:  # as the served model sees it: on the latent grid
                top, left = top // 16 * 16, left // 16 * 16
            pieces.append(picture[top : top + side, left : left + side])
    return to_tensor(np.stack(pieces[:count]))


def to_tensor(pictures: np.ndarray) -> torch.Tensor:
    """(n, h, w, 3) uint8 -> (n, 3, h, w) float in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def loss_of(vae: AutoencoderKL, pictures: torch.Tensor) -> torch.Tensor:
    """The error of the way through latents and back, and a little divergence of the latents from the normal."""
    posterior = vae.encode(pictures).latent_dist
    again = vae.decode(posterior.sample()).sample.float()
    divergence = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).float().mean()
    loss: torch.Tensor = error_of(again, pictures) + DIVERGENCE_WEIGHT * divergence
    return loss


def error_of(again: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
    """How far decoded pictures are from the true ones: L1 on pixels and on their differences, some squared error."""
    error = again - pictures
    edges = F.l1_loss(again.diff(dim=-1), pictures.diff(dim=-1)) + F.l1_loss(again.diff(dim=-2), pictures.diff(dim=-2))
    loss: torch.Tensor = error.abs().mean() + edges + 2 * (error**2).mean()
    return loss


@torch.no_grad()
def psnr(vae: AutoencoderKL, count: int = 64) -> float:
    """Decibels on held-out scenes, whole pictures, from the posterior's mean: the figure in the model card."""
    rng = np.random.default_rng(7)
    total = 0.0
    for _ in range(count // 8):
        pictures = to_tensor(np.stack([world.paint(world.imagine(rng, held_out=True)) for _ in range(8)]))
        again = vae.decode(vae.encode(pictures.to(vae.device)).latent_dist.mean).sample.clamp(-1, 1).cpu()
        total += float((10 * torch.log10(4 / ((again - pictures) ** 2).mean((1, 2, 3)))).sum())
    return total / (count // 8 * 8)


@torch.no_grad()
def measure_latents(vae: AutoencoderKL, count: int = 64) -> tuple[float, float]:
    """The mean of all latents and 1/standard deviation: shift_factor and scaling_factor."""
    rng = np.random.default_rng(8)
    pictures = to_tensor(np.stack([world.paint(world.imagine(rng, held_out=False)) for _ in range(count)]))
    latents = torch.cat([vae.encode(part.to(vae.device)).latent_dist.mean for part in torch.split(pictures, 8)])
    return float(latents.mean()), float(1 / latents.std())


@torch.no_grad()
def balance(vae: AutoencoderKL, count: int = 64) -> None:
    """Bring the latents' channels nearer to one another in size; the pictures stay the same.

    A few directions (the colour of a place) have hundreds of times the variance of those that hold shapes, and noise of
    one size would drown the shapes long before the colours: a flow would learn colours alone. Every principal direction
    is divided by its deviation to the power `EVENNESS`, and the decoder undoes it.
    """
    rng = np.random.default_rng(8)
    pictures = to_tensor(np.stack([world.paint(world.imagine(rng, held_out=False)) for _ in range(count)]))
    latents = torch.cat([vae.encode(part.to(vae.device)).latent_dist.mean for part in torch.split(pictures, 8)])
    flat = latents.transpose(0, 1).flatten(1)
    variances, directions = torch.linalg.eigh(torch.cov(flat))
    sizes = variances.clamp(min=1e-4) ** (-EVENNESS / 2)
    there = directions @ torch.diag(sizes) @ directions.T
    back = directions @ torch.diag(1 / sizes) @ directions.T
    channels = len(variances)
    out, into = vae.encoder.conv_out, vae.decoder.conv_in
    out.weight[:channels] = torch.einsum("ij,jkyx->ikyx", there, out.weight[:channels])
    out.bias[:channels] = there @ out.bias[:channels]
    # The encoder's own uncertainty was per channel of old: from here on it is none.
    out.weight[channels:] = 0
    out.bias[channels:] = -20
    into.weight[:] = torch.einsum("ojyx,ji->oiyx", into.weight, back)


def train(minutes: float) -> None:
    where = device()
    torch.manual_seed(0)
    vae = AutoencoderKL(**CONFIG).to(where)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    sitting = Sitting("vae", minutes, RATE)
    if state := sitting.load():
        vae.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    else:
        start_linear(vae, crops(np.random.default_rng(1), 320, 64).to(where))
    rng = np.random.default_rng(sitting.steps)
    parameters = list(vae.parameters())
    while sitting.lasts():
        late = sitting.elapsed > 0.8 * sitting.seconds
        pictures = crops(rng, 1, 256) if late else crops(rng, 3, 128)
        pictures = pictures.to(where)
        with torch.autocast(where.type, torch.bfloat16):
            loss = loss_of(vae, pictures)
        sitting.step(optimizer, loss, parameters)
        sitting.save(at_once=False, model=vae.state_dict(), optimizer=optimizer.state_dict())
    sitting.save(model=vae.state_dict(), optimizer=optimizer.state_dict())
    vae.eval()
    balance(vae)
    shift, scale = measure_latents(vae)
    vae.register_to_config(shift_factor=shift, scaling_factor=scale)
    publish(vae, FOLDER)
    print(f"vae: {psnr(vae.float()):.2f} dB on held-out scenes, shift {shift:.3f}, scale {scale:.3f} -> {FOLDER}")


def train_decoder(minutes: float) -> None:
    """Go on with the decoder alone: transformers that were taught on the encoder's latents stay right.

    It sees latents with a little noise, as a flow leaves them.
    """
    where = device()
    vae = AutoencoderKL.from_pretrained(FOLDER, torch_dtype=torch.float32).to(where)
    vae.encoder.requires_grad_(False)
    parameters = list(vae.decoder.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    sitting = Sitting("vae_decoder", minutes, RATE)
    if state := sitting.load():
        vae.decoder.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    rng = np.random.default_rng(sitting.steps)
    while sitting.lasts():
        pictures = (crops(rng, 1, 256) if sitting.steps % 2 else crops(rng, 3, 128)).to(where)
        with torch.no_grad(), torch.autocast(where.type, torch.bfloat16):
            latents = vae.encode(pictures).latent_dist.mean
            latents = latents + LATENT_NOISE * torch.randn_like(latents)
        with torch.autocast(where.type, torch.bfloat16):
            loss = error_of(vae.decode(latents).sample.float(), pictures)
        sitting.step(optimizer, loss, parameters)
        sitting.save(at_once=False, model=vae.decoder.state_dict(), optimizer=optimizer.state_dict())
    sitting.save(model=vae.decoder.state_dict(), optimizer=optimizer.state_dict())
    publish(vae.eval(), FOLDER)
    print(f"vae: {psnr(vae.float()):.2f} dB on held-out scenes -> {FOLDER}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--decoder-only", action="store_true", help="keep the encoder, and so the latents, as they are")
    chosen = parser.parse_args()
    (train_decoder if chosen.decoder_only else train)(chosen.minutes)
