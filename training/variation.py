"""Teach the image prompt: a small image tower and the embedder that makes its patches words, as FLUX.1 Redux has it.

    python -m torch.distributed.run --nproc-per-node 2 -m training.variation --minutes 15

The patches learn to be what T5 says of the picture's caption, size and place left out: words that dev reads already.
Taught through dev, from the pictures that it draws, nothing was learned; and what had been learned from T5 was lost.
"""

import argparse
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import torch
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from transformers import SiglipImageProcessorPil, SiglipVisionConfig, SiglipVisionModel

from training import captions, text, world
from training.flow import Reader, reseed
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
PATCHES = (SIDE // PATCH) ** 2
RATE = 2e-3
BATCH = 128
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


def other_view(scene: world.Scene, rng: np.random.Generator) -> world.Scene:
    """The same thing on the same background, of any size at any place; two or more stay where they are."""
    if scene.relation is not None:
        return scene
    item = scene.items[0]
    size = list(world.SIZES)[rng.integers(len(world.SIZES))]
    place = "centre" if size == "big" else world.PLACES[rng.integers(len(world.PLACES))]
    other = world.one(item.name, item.colour, scene.background, size, place)
    return replace(other, items=(replace(other.items[0], figure=item.figure),))


def train(minutes: float) -> None:
    torch.manual_seed(0)
    eye = Eye().to(device())
    optimizer = torch.optim.AdamW(eye.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    average, sitting = Average(eye, decay=0.998), Sitting("variation", minutes, RATE)
    if state := sitting.load():
        eye.load_state_dict(state["eye"])
        optimizer.load_state_dict(state["optimizer"])
        average.weights, average.updates = state["average"], state["updates"]
    reseed(sitting)
    reader, rng = Reader(), np.random.default_rng()

    def save(*, at_once: bool) -> None:
        sitting.save(
            at_once=at_once,
            eye=eye.state_dict(),
            optimizer=optimizer.state_dict(),
            average=average.weights,
            updates=average.updates,
        )

    while sitting.lasts():
        scenes = [world.imagine(rng, held_out=False) for _ in range(BATCH)]
        wanted = reader.read([captions.plain_caption(scene) for scene in scenes]).sequence[:, :PATCHES].float()
        with torch.autocast(device().type, torch.bfloat16):
            tokens = eye(_seen([other_view(scene, rng) for scene in scenes])).float()
        loss = (tokens - wanted).square().mean() / wanted.var()
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        for weight in eye.parameters():
            if weight.grad is not None:
                mean_of_all(weight.grad)
        sitting.update((optimizer,), float(loss.detach()), list(eye.parameters()))
        average.update(eye)
        save(at_once=False)
    save(at_once=True)
    eye.load_state_dict(average.weights)
    _write(eye)


def _seen(scenes: list[world.Scene]) -> torch.Tensor:
    """The scenes' pictures as the tower takes them."""
    pictures = [cv2.resize(world.paint(scene), (SIDE, SIDE), interpolation=cv2.INTER_AREA) for scene in scenes]
    return to_tensor(np.stack(pictures)).to(device())


def _write(eye: Eye) -> None:
    if not is_first():
        return
    torch.nn.Module.to(eye.tower, torch.bfloat16)
    eye.tower.save_pretrained(FOLDER / "image_encoder")
    publish(eye.embedder, FOLDER / "image_embedder")
    SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(FOLDER / "feature_extractor")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15)
    chosen = parser.parse_args()
    sit_together()
    train(chosen.minutes)
