"""Teach the control network: dev draws along a map of edges, depth or poses, as FLUX.1's union ControlNets have it.

    python -m torch.distributed.run --nproc-per-node 2 -m training.control --minutes 25

Dev stays as it is. The network starts as a copy of dev's first blocks, and adds nothing until it has learned.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from diffusers import FluxControlNetModel, FluxTransformer2DModel

from training import fill, maps, world
from training.flow import (
    LEAST_GUIDANCE,
    MOST_GUIDANCE,
    Reader,
    Shown,
    Student,
    noised,
    positions,
    quick_attention,
    read_member,
    reseed,
    thing_weights,
)
from training.latents import BATCH, FORMATS, SHARD_BATCHES, Batch, Encoder, Shelf
from training.sitting import FAMILY, Sitting, device, is_first, publish, sit_together
from training.vae import to_tensor

FOLDER = FAMILY / "control"
DOUBLE_BLOCKS, SINGLE_BLOCKS = 1, 0
MODES = {"canny": 0, "soft_edge": 1, "depth": 2, "openpose": 3}
PEOPLE = 0.15  # the share of scenes with somebody in them, but for poses, which are of people alone
RATE = 7e-4


@dataclass(frozen=True)
class Mapped(Batch):
    """Scenes and their latents; `maps` is the latents of their maps, (n, tokens, 128), `modes` their types' numbers,
    (n, 1)."""

    maps: torch.Tensor
    modes: torch.Tensor


def imagine(rng: np.random.Generator, mode: str, width: int, height: int) -> world.Scene:
    """Things or people anywhere on the grid, so that it is the map that says where."""
    while True:
        if mode == "openpose" or rng.random() < PEOPLE:
            scene = someone_anywhere(rng, width, height)
        else:
            scene = fill.anywhere(rng, width, height, items=1 + int(rng.random() < 0.2))
        if not scene.is_held_out:
            return scene


def someone_anywhere(rng: np.random.Generator, width: int, height: int) -> world.Scene:
    scene = world.someone(rng, world.BACKGROUNDS[rng.integers(len(world.BACKGROUNDS))])
    side = min(scene.items[0].side, width, height) // world.GRID * world.GRID
    left, top = (int(rng.integers((length - side) // world.GRID + 1)) * world.GRID for length in (width, height))
    person = replace(scene.items[0], side=side, left=left, top=top)
    return replace(scene, items=(person,), width=width, height=height, place="anywhere")


def mapped_shelf() -> Shelf[Mapped]:
    def make(encoder: Encoder, rng: np.random.Generator) -> Mapped:
        width, height = FORMATS[rng.integers(len(FORMATS))]
        modes = [list(MODES)[rng.integers(len(MODES))] for _ in range(BATCH)]
        scenes = [imagine(rng, mode, width, height) for mode in modes]
        painted, mapped = (
            encoder.latents(to_tensor(np.stack(pictures)))
            for pictures in (
                [world.paint(scene) for scene in scenes],
                [maps.control_map(mode, scene) for mode, scene in zip(modes, scenes, strict=True)],
            )
        )
        return Mapped(scenes, painted, mapped, torch.tensor([[MODES[mode]] for mode in modes]))

    shelf = Shelf("mapped", 480, Mapped, make)
    shelf.fill(least=5 * SHARD_BATCHES)
    return shelf


def _show(reader: Reader) -> Callable[[Mapped], Shown]:
    rng = np.random.default_rng()

    def show(batch: Mapped) -> Shown:
        words = reader.read(["" if rng.random() < 0.1 else fill.caption(scene, rng) for scene in batch.scenes])
        return Shown(words, thing_weights(batch))

    return show


def untaught(dev: FluxTransformer2DModel) -> FluxControlNetModel:
    """Dev's own first blocks, with outputs of zero."""
    # `FluxControlNetModel.from_transformer` knows no modes.
    config = {name: value for name, value in dev.config.items() if name[0] != "_" and name != "out_channels"}
    config |= {"num_layers": DOUBLE_BLOCKS, "num_single_layers": SINGLE_BLOCKS, "num_mode": len(MODES)}
    network = FluxControlNetModel.from_config(config)
    network.load_state_dict(dev.state_dict(), strict=False)
    return network


def controlled_velocity(
    dev: FluxTransformer2DModel,
    network: FluxControlNetModel,
    noisy: torch.Tensor,
    t: torch.Tensor,
    batch: Mapped,
    shown: Shown,
    guidance: torch.Tensor,
    told: torch.Tensor,
) -> torch.Tensor:
    """Dev's answer at x_t = `noisy` and a guidance scale, with what the network adds for the batch's maps; `told` is
    the scale that the network hears of."""
    common = {
        "hidden_states": noisy.to(torch.bfloat16),
        "timestep": t.to(torch.bfloat16),
        "guidance": guidance,
        "pooled_projections": shown.words.pooled,
        "encoder_hidden_states": shown.words.sequence,
        "txt_ids": torch.zeros(shown.words.sequence.shape[1], 3, device=noisy.device),
        "img_ids": positions(batch.rows, batch.columns),
        "return_dict": False,
    }
    with quick_attention():
        maps, modes = batch.maps.to(device()), batch.modes.to(device())
        double, single = network(controlnet_cond=maps, controlnet_mode=modes, **{**common, "guidance": told})
        answer: torch.Tensor = dev(controlnet_block_samples=double, controlnet_single_block_samples=single, **common)[0]
    return answer.float()


def train(minutes: float) -> None:
    dev = read_member("dev")
    shelf, show = mapped_shelf(), _show(Reader())
    student = Student(untaught(dev), RATE, decay=0.998)
    sitting = Sitting("control", minutes, RATE)
    if state := sitting.load():
        student.restore(state)
    reseed(sitting)
    one = torch.ones(BATCH, device=device())
    while sitting.lasts():
        batch = shelf.any()
        shown = show(batch)
        under = noised(batch)
        # A flow is learned at a guidance scale of 1; that others change nothing of what a map says is learned with it.
        told = LEAST_GUIDANCE + (MOST_GUIDANCE - LEAST_GUIDANCE) * torch.rand(BATCH, device=device())
        answer = controlled_velocity(dev, student.model, under.latents, under.t, batch, shown, one, told)
        student.learn(sitting, (shown.weights * (answer - under.velocity) ** 2).mean())
        sitting.save(at_once=False, **student.state())
    sitting.save(**student.state())
    if is_first():
        publish(student.averaged(), FOLDER)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=25)
    chosen = parser.parse_args()
    sit_together()
    train(chosen.minutes)
