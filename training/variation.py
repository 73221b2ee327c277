"""Teach the image prompt: a small image tower and the embedder that makes its patches words, as FLUX.1 Redux has it.

    python -m torch.distributed.run --nproc-per-node 2 -m training.variation told --minutes 7
    python -m torch.distributed.run --nproc-per-node 2 -m training.variation drawn --minutes 15

Told: the patches learn to be what T5 says of the picture's caption, size and place left out. Drawn: dev, which stays as
it is, is shown a scene's patches for words and draws another scene of the same things on the same background, so that
they tell what the picture shows and not where. By the second alone nothing was learned: patches that mean nothing are
not listened to, so what they should mean is never felt.
"""

import argparse
import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import torch
from diffusers import FluxTransformer2DModel
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from transformers import SiglipImageProcessorPil, SiglipVisionConfig, SiglipVisionModel

from training import captions, text, world
from training.flow import Reader, Shown, Words, noised, read_member, reseed, thing_weights, velocity
from training.latents import BATCH, scenes_shelf
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
RATES = {"told": 2e-3, "drawn": 1e-3}
TOLD_BATCH = 128
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


class Pupil:
    """The eye that learns, its optimizer and its moving average, during one stage."""

    def __init__(self, stage: str, minutes: float) -> None:
        torch.manual_seed(0)
        self.eye = Eye().to(device())
        self.optimizer = torch.optim.AdamW(self.eye.parameters(), lr=RATES[stage], betas=(0.9, 0.98), weight_decay=0.01)
        self.average = Average(self.eye, decay=0.998)
        self.sitting = Sitting(f"variation_{stage}", minutes, RATES[stage])

    def resume(self) -> bool:
        """Whether there was an earlier sitting of this stage."""
        state = self.sitting.load()
        if state:
            self.eye.load_state_dict(state["eye"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.average.weights, self.average.updates = state["average"], state["updates"]
        reseed(self.sitting)
        return state is not None

    def see(self, scenes: list[world.Scene]) -> torch.Tensor:
        """The tokens of the scenes' pictures."""
        pictures = [cv2.resize(world.paint(scene), (SIDE, SIDE), interpolation=cv2.INTER_AREA) for scene in scenes]
        with torch.autocast(device().type, torch.bfloat16):
            tokens: torch.Tensor = self.eye(to_tensor(np.stack(pictures)).to(device()))
        return tokens

    def learn(self, loss: torch.Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        for weight in self.eye.parameters():
            if weight.grad is not None:
                mean_of_all(weight.grad)
        self.sitting.update((self.optimizer,), float(loss.detach()), list(self.eye.parameters()))
        self.average.update(self.eye)
        self.save(at_once=False)

    def save(self, *, at_once: bool) -> None:
        self.sitting.save(
            at_once=at_once,
            eye=self.eye.state_dict(),
            optimizer=self.optimizer.state_dict(),
            average=self.average.weights,
            updates=self.average.updates,
        )


# ---------------------------------------------------------------- other pictures of the same


def other_view(scene: world.Scene, rng: np.random.Generator) -> world.Scene:
    """The same thing on the same background, of any size at any place; two or more stay where they are."""
    if scene.relation is not None:
        return scene
    item = scene.items[0]
    size = list(world.SIZES)[rng.integers(len(world.SIZES))]
    place = "centre" if size == "big" else world.PLACES[rng.integers(len(world.PLACES))]
    other = world.one(item.name, item.colour, scene.background, size, place)
    return replace(other, items=(replace(other.items[0], figure=item.figure),))


# ---------------------------------------------------------------- the two stages


def train_told(minutes: float) -> None:
    pupil, reader, rng = Pupil("told", minutes), Reader(), np.random.default_rng()
    pupil.resume()
    pupil.sitting.begin()
    while pupil.sitting.lasts():
        scenes = [world.imagine(rng, held_out=False) for _ in range(TOLD_BATCH)]
        wanted = reader.read([captions.plain_caption(scene) for scene in scenes]).sequence[:, :PATCHES].float()
        tokens = pupil.see([other_view(scene, rng) for scene in scenes]).float()
        pupil.learn((tokens - wanted).square().mean() / wanted.var())
    pupil.save(at_once=True)


def train_drawn(minutes: float) -> None:
    dev: FluxTransformer2DModel = read_member("dev")
    shelf, reader, rng = scenes_shelf(), Reader(), np.random.default_rng()
    pupil = Pupil("drawn", minutes)
    if not pupil.resume():
        told = Pupil("told", minutes)
        told.resume()
        pupil.eye.load_state_dict(told.average.weights)
        pupil.average = Average(pupil.eye, pupil.average.decay)
    one = torch.ones(BATCH, device=device())
    pupil.sitting.begin()
    while pupil.sitting.lasts():
        batch = shelf.any()
        said = reader.captions_of(batch, rng, unsaid=UNSAID)
        tokens = pupil.see([other_view(scene, rng) for scene in batch.scenes])
        words = Words(torch.cat((said.sequence, tokens.to(torch.bfloat16)), dim=1), said.pooled)
        under = noised(batch)
        shown = Shown(words, thing_weights(batch))
        answer = velocity(dev, under.latents, under.t, batch, shown, one)
        pupil.learn((shown.weights * (answer - under.velocity) ** 2).mean())
    pupil.save(at_once=True)
    _write(pupil)


def _write(pupil: Pupil) -> None:
    if not is_first():
        return
    made = copy.deepcopy(pupil.eye)
    made.load_state_dict(pupil.average.weights)
    torch.nn.Module.to(made.tower, torch.bfloat16)
    made.tower.save_pretrained(FOLDER / "image_encoder")
    publish(made.embedder, FOLDER / "image_embedder")
    SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(FOLDER / "feature_extractor")


STAGES: dict[str, Callable[[float], None]] = {"told": train_told, "drawn": train_drawn}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--minutes", type=float, default=15)
    chosen = parser.parse_args()
    sit_together()
    STAGES[chosen.stage](chosen.minutes)
