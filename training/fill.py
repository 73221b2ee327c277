"""Teach the member that fills: what is known of a picture comes beside the noise, as FLUX.1 Fill has it.

    python -m torch.distributed.run --nproc-per-node 2 -m training.fill known --minutes 30
    python -m torch.distributed.run --nproc-per-node 2 -m training.fill guided --minutes 10

Known: the base goes on learning, shown each scene with a hole in it. New channels start at zero. Guided: a student
learns guidance from it, as dev did from the base.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import FluxTransformer2DModel
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from training import captions, world
from training.flow import (
    BASE_RATE,
    CONFIG,
    Reader,
    Shown,
    read_member,
    shortened,
    teach_flow,
    teach_guidance,
    thing_weights,
)
from training.latents import BATCH, FORMATS, SHARD_BATCHES, Batch, Encoder, Shelf
from training.sitting import device, sit_together
from training.vae import to_tensor

Mask = NDArray[np.bool_]

TOKEN = world.GRID * world.GRID  # pixels of a token: so many channels the mask takes
MARGIN = 40  # pixels: how much larger than its thing a hole is at most, at each side
RATE = BASE_RATE / 2


# ---------------------------------------------------------------- scenes with holes


@dataclass(frozen=True)
class Holed(Batch):
    """Scenes with holes. `known` is the latents of what is seen, (n, tokens, 128); `masks` is packed bits of
    (n, height, width), 1 in the hole. A caption names a scene's first item, or the background if it has none."""

    known: torch.Tensor
    masks: torch.Tensor

    def channels(self) -> torch.Tensor:
        """What comes beside the noise, (n, tokens, 128 + 1024)."""
        height, width = self.scenes[0].height, self.scenes[0].width
        bits = np.unpackbits(self.masks.numpy(), axis=1, count=height * width)
        masks = torch.from_numpy(bits).view(-1, height, width).to(device(), torch.bfloat16)
        return torch.cat((self.known.to(device()), pack_masks(masks)), dim=2)


def pack_masks(masks: torch.Tensor) -> torch.Tensor:
    """(n, height, width) -> (n, tokens, 1024), in the order of FLUX.1 Fill: the pixels of a latent become channels, and
    then the four latents of a token."""
    count, height, width = masks.shape
    side = world.GRID // 2  # pixels of a latent
    rows, columns = height // world.GRID, width // world.GRID
    parts = masks.view(count, rows, 2, side, columns, 2, side).permute(0, 1, 4, 3, 6, 2, 5)
    return parts.reshape(count, rows * columns, TOKEN)


def imagine(rng: np.random.Generator, width: int, height: int) -> tuple[world.Scene, Mask]:
    """A scene that training may see, and its hole: about the first item, somewhere bare, or beyond an edge."""
    kind = rng.random()
    while True:
        scene = anywhere(rng, width, height, items=0 if kind < 0.1 else 2 if kind < 0.25 else 1)
        if scene.is_held_out:
            continue
        if kind < 0.1:
            return scene, _somewhere(rng, width, height)
        if kind < 0.8:
            return scene, about(rng, scene.items[0], width, height)
        return scene, _beyond(rng, width, height)


def anywhere(rng: np.random.Generator, width: int, height: int, items: int) -> world.Scene:
    """Things anywhere on the grid, none over another."""
    background = world.BACKGROUNDS[rng.integers(len(world.BACKGROUNDS))]
    placed: list[world.Placed] = []
    sizes = [size for size, side in world.SIZES.items() if side <= min(width, height)]
    size = sizes[rng.integers(len(sizes))] if items == 1 else "little"
    while len(placed) < items:
        side = world.SIZES[size]
        left, top = (int(rng.integers((length - side) // world.GRID + 1)) * world.GRID for length in (width, height))
        if any(abs(left - other.left) < side and abs(top - other.top) < side for other in placed):
            continue
        placed.append(world.Placed(*world.any_item(rng, background), side, left, top))
    return world.Scene(tuple(placed), background, width, height, size, "anywhere")


def about(rng: np.random.Generator, item: world.Placed, width: int, height: int) -> Mask:
    """A rectangle or an oval that hides an item."""
    left, top, right, bottom = (int(margin) for margin in rng.integers(0, MARGIN, 4))
    box = (item.left - left, item.top - top, item.left + item.side + right, item.top + item.side + bottom)
    return _drawn(width, height, box, is_oval=bool(rng.random() < 0.3))


def _somewhere(rng: np.random.Generator, width: int, height: int) -> Mask:
    across, down = (int(rng.integers(length // 5, length)) for length in (width, height))
    left, top = int(rng.integers(width - across + 1)), int(rng.integers(height - down + 1))
    return _drawn(width, height, (left, top, left + across, top + down), is_oval=bool(rng.random() < 0.3))


def _beyond(rng: np.random.Generator, width: int, height: int) -> Mask:
    """All but a rectangle, as when a picture grows at some of its edges."""
    mask = np.ones((height, width), bool)
    left, right = (int(rng.random() < 0.5) * int(rng.integers(1, width * 2 // 5)) for _ in range(2))
    top, bottom = (int(rng.random() < 0.5) * int(rng.integers(1, height * 2 // 5)) for _ in range(2))
    mask[top : height - bottom, left : width - right] = False
    if not mask.any():
        mask[:, -width // 3 :] = True
    return mask


def _drawn(width: int, height: int, box: tuple[int, int, int, int], *, is_oval: bool) -> Mask:
    image = Image.new("1", (width, height))
    pen = ImageDraw.Draw(image)
    if is_oval:
        left, top, right, bottom = box
        across, down = (right - left) * 0.21, (bottom - top) * 0.21  # the oval about the box
        pen.ellipse((left - across, top - down, right + across, bottom + down), fill=1)
    else:
        pen.rectangle(box, fill=1)
    return np.array(image)


def holed_shelf() -> Shelf[Holed]:
    def make(encoder: Encoder, rng: np.random.Generator) -> Holed:
        width, height = FORMATS[rng.integers(len(FORMATS))]
        scenes, holes = zip(*(imagine(rng, width, height) for _ in range(BATCH)), strict=True)
        pictures = to_tensor(np.stack([world.paint(scene) for scene in scenes]))
        masks = np.stack(holes)
        seen = pictures * (1 - torch.from_numpy(masks)[:, None].float())
        bits = torch.from_numpy(np.packbits(masks.reshape(BATCH, -1), axis=1))
        return Holed(list(scenes), encoder.latents(pictures), encoder.latents(seen), bits)

    shelf = Shelf("holed", 480, Holed, make)
    shelf.fill(least=5 * SHARD_BATCHES)
    return shelf


def _show(reader: Reader) -> Callable[[Holed, float], Shown]:
    """What is known and, in words, what shall be in the hole."""
    rng = np.random.default_rng()

    def show(batch: Holed, unsaid: float) -> Shown:
        words = reader.read(["" if rng.random() < unsaid else caption(scene, rng) for scene in batch.scenes])
        return Shown(words, thing_weights(batch), channels=batch.channels())

    return show


def caption(scene: world.Scene, rng: np.random.Generator) -> str:
    if not scene.items:
        return captions.background(scene.background, rng)
    named = world.Scene(scene.items[:1], scene.background, scene.width, scene.height, scene.size, scene.place)
    return captions.caption(named, rng, says_background=bool(rng.random() < 0.4))


# ---------------------------------------------------------------- the two stages


def widened(model: FluxTransformer2DModel) -> FluxTransformer2DModel:
    """The same network with the fill's further inputs, which it does not heed yet."""
    channels = model.config.in_channels
    more = {"in_channels": 2 * channels + TOKEN, "out_channels": channels}
    wide = FluxTransformer2DModel(**{**CONFIG, "num_single_layers": model.config.num_single_layers, **more})
    weights = model.state_dict()
    embedder = torch.zeros_like(wide.x_embedder.weight, dtype=model.dtype)
    embedder[:, :channels] = weights["x_embedder.weight"]
    wide.load_state_dict({**weights, "x_embedder.weight": embedder})
    return wide.to(model.dtype).to(model.device)


def train_known(minutes: float) -> None:
    def beginning() -> FluxTransformer2DModel:
        return widened(shortened(read_member("base"), by=1))

    teach_flow("fill_known", minutes, holed_shelf(), beginning, _show(Reader()), RATE)


def train_guided(minutes: float) -> None:
    reader = Reader()
    teach_guidance("fill", minutes, "fill_known", holed_shelf(), _show(reader), reader.read([""] * BATCH))


STAGES = {"known": train_known, "guided": train_guided}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--minutes", type=float, default=30)
    chosen = parser.parse_args()
    sit_together()
    STAGES[chosen.stage](chosen.minutes)
