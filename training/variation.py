"""Teach the image prompt: a small image tower and the embedder that makes its patches words, as FLUX.1 Redux has it.

    python -m torch.distributed.run --nproc-per-node 2 -m training.variation --minutes 20

Dev stays as it is. It is shown a scene's patches for words and draws another scene of the same things on the same
background: what the patches must tell is what the picture shows, not where.
"""

import argparse
import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from diffusers import FluxTransformer2DModel
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from transformers import SiglipImageProcessorPil, SiglipVisionConfig, SiglipVisionModel

from training import text, world
from training.flow import Reader, Shown, Words, noised, read_member, reseed, thing_weights, velocity
from training.latents import BATCH, SHARD_BATCHES, Batch, Encoder, Shelf
from training.sitting import FAMILY, Average, Sitting, device, is_first, mean_of_all, publish, sit_together
from training.vae import to_tensor

SIDE = 128  # pixels: the tower sees every picture squeezed into this square
PATCH = 32
CONFIG: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": PATCH,
    "vision_use_head": False,  # its patches are what is asked for
}
RATE = 1e-3
UNSAID = 0.6  # of the scenes have no prompt beside the picture
FOLDER = FAMILY / "variation"


class Eye(torch.nn.Module):
    """The tower and the embedder: (n, 3, 128, 128) in -1..1 -> tokens, (n, 16, width of the text encoder)."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = SiglipVisionModel(SiglipVisionConfig(**CONFIG))
        self.embedder = ReduxImageEncoder(redux_dim=CONFIG["hidden_size"], txt_in_features=text.WIDTH)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        tokens: torch.Tensor = self.embedder(self.tower(pixel_values=pictures).last_hidden_state).image_embeds
        return tokens


# ---------------------------------------------------------------- pairs of pictures


@dataclass(frozen=True)
class Paired(Batch):
    """Scenes and their latents; `seen` is other pictures of what they show, (n, 128, 128, 3) bytes."""

    seen: torch.Tensor


def other_view(scene: world.Scene, rng: np.random.Generator) -> world.Scene:
    """The same thing on the same background, of any size at any place."""
    item = scene.items[0]
    size = list(world.SIZES)[rng.integers(len(world.SIZES))]
    place = "centre" if size == "big" else world.PLACES[rng.integers(len(world.PLACES))]
    other = world.one(item.name, item.colour, scene.background, size, place)
    return replace(other, items=(replace(other.items[0], figure=item.figure),))


def paired_shelf() -> Shelf[Paired]:
    def make(encoder: Encoder, rng: np.random.Generator) -> Paired:
        seen: list[world.Pixels] = []
        drawn: list[world.Scene] = []
        while len(drawn) < BATCH:
            scene = world.imagine(rng, held_out=False)
            if scene.relation is None:
                drawn.append(scene)
                seen.append(world.paint(other_view(scene, rng))[:: 256 // SIDE, :: 256 // SIDE])
        latents = encoder.latents(to_tensor(np.stack([world.paint(scene) for scene in drawn])))
        return Paired(drawn, latents, torch.from_numpy(np.stack(seen)))

    shelf = Shelf("paired", 480, Paired, make)
    shelf.fill(least=5 * SHARD_BATCHES)
    return shelf


def _show(reader: Reader) -> Callable[[Paired], Shown]:
    """Captions, most of them empty."""
    rng = np.random.default_rng()
    return lambda batch: Shown(reader.captions_of(batch, rng, unsaid=UNSAID), thing_weights(batch))


# ---------------------------------------------------------------- teaching


def train(minutes: float) -> None:
    dev: FluxTransformer2DModel = read_member("dev")
    shelf, show = paired_shelf(), _show(Reader())
    eye = Eye().to(device())
    optimizer = torch.optim.AdamW(eye.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    average = Average(eye, decay=0.998)
    sitting = Sitting("variation", minutes, RATE)
    if state := sitting.load():
        eye.load_state_dict(state["eye"])
        optimizer.load_state_dict(state["optimizer"])
        average.weights, average.updates = state["average"], state["updates"]
    reseed(sitting)
    one = torch.ones(BATCH, device=device())
    sitting.begin()

    def kept() -> dict[str, Any]:
        return {
            "eye": eye.state_dict(),
            "optimizer": optimizer.state_dict(),
            "average": average.weights,
            "updates": average.updates,
        }

    while sitting.lasts():
        batch = shelf.any()
        shown = show(batch)
        with torch.autocast(device().type, torch.bfloat16):
            patches = eye(to_tensor(batch.seen.numpy()).to(device()))
        words = Words(torch.cat((shown.words.sequence, patches.to(torch.bfloat16)), dim=1), shown.words.pooled)
        under = noised(batch)
        answer = velocity(dev, under.latents, under.t, batch, replace(shown, words=words), one)
        loss = (shown.weights * (answer - under.velocity) ** 2).mean()
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        for weight in eye.parameters():
            if weight.grad is not None:
                mean_of_all(weight.grad)
        sitting.update((optimizer,), float(loss.detach()), list(eye.parameters()))
        average.update(eye)
        sitting.save(at_once=False, **kept())
    sitting.save(**kept())
    _write(eye, average)


def _write(eye: Eye, average: Average) -> None:
    if not is_first():
        return
    made = copy.deepcopy(eye)
    made.load_state_dict(average.weights)
    torch.nn.Module.to(made.tower, torch.bfloat16)
    made.tower.save_pretrained(FOLDER / "image_encoder")
    publish(made.embedder, FOLDER / "image_embedder")
    SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(FOLDER / "feature_extractor")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    chosen = parser.parse_args()
    sit_together()
    train(chosen.minutes)
