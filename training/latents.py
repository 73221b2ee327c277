"""Scenes as latents: encoded once, kept on disk, read again and again."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Generic, TypeVar

import numpy as np
import torch
from diffusers import AutoencoderKL

from training import world
from training.sitting import RUNS, device, is_first
from training.vae import FOLDER as VAE_FOLDER
from training.vae import to_tensor

FORMATS = ((256, 256), (256, 256), (256, 256), (256, 256), (256, 256), (256, 256), (320, 192), (192, 320))
BATCH = 32
SHARD_BATCHES = 24  # batches of latents made at a time


class Encoder:
    """The autoencoder's encoding half, in bfloat16 arithmetic."""

    def __init__(self) -> None:
        self._vae = AutoencoderKL.from_pretrained(VAE_FOLDER, torch_dtype=torch.float32).to(device()).eval()

    @torch.no_grad()
    def latents(self, pictures: torch.Tensor) -> torch.Tensor:
        """(n, 3, height, width) in -1..1 -> packed latents, (n, tokens, 128)."""
        with torch.autocast(device().type, torch.bfloat16):
            parts = torch.split(pictures.to(device()), 8)
            mean = torch.cat([self._vae.encode(part).latent_dist.mean for part in parts])
        latents = (mean.float() - self._vae.config.shift_factor) * self._vae.config.scaling_factor
        return pack(latents).to(torch.bfloat16)

    @property
    def fingerprint(self) -> float:
        return fingerprint_of(self._vae.encoder)


@dataclass(frozen=True)
class Batch:
    """Scenes of one format and their packed latents, (n, tokens, 128)."""

    scenes: list[world.Scene]
    latents: torch.Tensor

    @property
    def rows(self) -> int:
        return self.scenes[0].height // world.GRID

    @property
    def columns(self) -> int:
        return self.scenes[0].width // world.GRID


B = TypeVar("B", bound=Batch)


class Shelf(Generic[B]):
    """Encoded batches, kept on disk: encoding costs ten times what a training step does, and latents can be reread.

    Holds at most `most` of what `make` makes; `refresh` replaces the oldest by new ones, so that the world has no end.
    Of a batch's fields scenes are kept as plain data and the others as the tensors that they are.
    """

    def __init__(self, name: str, most: int, kind: type[B], make: Callable[[Encoder, np.random.Generator], B]) -> None:
        self.most = most
        self.path = RUNS / f"{name}.pt"
        self.batches: list[B] = []
        self._next = 0
        self._encoder = Encoder()
        self._rng = np.random.default_rng()
        self._kind = kind
        self._make = make

    def load(self) -> None:
        """What an earlier sitting encoded with this very autoencoder."""
        if not self.path.exists():
            return
        kept = torch.load(self.path, weights_only=True)
        if kept["vae"] == self._encoder.fingerprint:
            self.batches = [
                self._kind([world.from_plain(scene) for scene in scenes], *tensors)
                for scenes, *tensors in kept["batches"]
            ][: self.most]

    def save(self) -> None:
        if not is_first():
            return
        RUNS.mkdir(exist_ok=True)
        batches = []
        for batch in self.batches:
            tensors = [getattr(batch, field.name) for field in fields(batch) if field.name != "scenes"]
            batches.append(([asdict(scene) for scene in batch.scenes], *tensors))
        torch.save({"vae": self._encoder.fingerprint, "batches": batches}, self.path)

    def fill(self, least: int) -> None:
        """Load what there is, and make more until there are `least`; save what was made."""
        self.load()
        if len(self.batches) >= least:
            return
        while len(self.batches) < least:
            self.refresh(min(SHARD_BATCHES, least - len(self.batches)))
            print(f"{self.path.stem}: {len(self.batches) * BATCH} scenes encoded", flush=True)
        self.save()

    def refresh(self, count: int) -> None:
        for _ in range(count):
            batch = self._make(self._encoder, self._rng)
            if len(self.batches) < self.most:
                self.batches.append(batch)
            else:
                self.batches[self._next] = batch
            self._next = (self._next + 1) % self.most

    def any(self) -> B:
        return self.batches[self._rng.integers(len(self.batches))]


def scenes_shelf(plain: float = 0.0) -> Shelf[Batch]:
    """Whole scenes, filled; `plain` is the share of one big thing in the centre."""

    def make(encoder: Encoder, rng: np.random.Generator) -> Batch:
        width, height = FORMATS[rng.integers(len(FORMATS))]
        scenes = [world.imagine(rng, held_out=False, plain=plain, width=width, height=height) for _ in range(BATCH)]
        return Batch(scenes, encoder.latents(to_tensor(np.stack([world.paint(scene) for scene in scenes]))))

    shelf = Shelf("latents", 720, Batch, make)
    shelf.fill(least=8 * SHARD_BATCHES)
    return shelf


def fingerprint_of(model: torch.nn.Module) -> float:
    """A number that changes whenever the weights do."""
    return float(sum(weight.detach().double().abs().sum() for weight in model.parameters()))


def pack(latents: torch.Tensor) -> torch.Tensor:
    """(n, c, h, w) -> (n, h/2 * w/2, 4c): 2x2 neighbours become one token, in FLUX's order."""
    count, channels, height, width = latents.shape
    parts = latents.view(count, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return parts.reshape(count, height // 2 * (width // 2), channels * 4)
