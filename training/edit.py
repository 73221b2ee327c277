"""Teach the member that edits: a picture's own tokens come after those of the noise, as FLUX.1 Kontext has it.

    python -m torch.distributed.run --nproc-per-node 2 -m training.edit seen --minutes 40
    python -m torch.distributed.run --nproc-per-node 2 -m training.edit guided --minutes 10

Seen: the base goes on learning, shown each scene as it was before a change, and told the change. Guided: a student
learns guidance from it, as dev did from the base.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from training import captions, world
from training.flow import BASE_RATE, Reader, Shown, read_member, teach_flow, teach_guidance
from training.latents import BATCH, FORMATS, SHARD_BATCHES, Batch, Encoder, Shelf
from training.sitting import device, sit_together
from training.vae import to_tensor

CHANGED_WEIGHT = 3.0  # a token that changes counts this many times one that stays
# How often each kind of change is tried. Few scenes can be recoloured; a new thing is the hardest to learn.
TRIED = {"background": 0.12, "replace": 0.3, "recolour": 0.5, "remove": 0.08}
# Of the changes, those that are told by the caption of what they end in. It is what the base understands: shown
# instructions alone it forgot how things look while it learned to copy, and then had no thing to put in. The caption
# says not how large nor where: that is to be seen in the picture, as it is when an instruction is told.
TOLD_BY_CAPTION = 0.4


# ---------------------------------------------------------------- changes


@dataclass(frozen=True)
class Change:
    """One picture, and what becomes of it."""

    before: world.Scene
    after: world.Scene


def imagine(rng: np.random.Generator, width: int, height: int, *, held_out: bool) -> Change:
    """A change that ends in a held-out combination, or in one that training may see."""
    while True:
        change = _change(rng, world.imagine(rng, held_out=False, width=width, height=height))
        if change is not None and change.after.is_held_out == held_out:
            return change


def _change(rng: np.random.Generator, before: world.Scene) -> Change | None:
    """A random change, None if the scene allows not the one that was drawn."""
    kind = rng.choice(list(TRIED), p=list(TRIED.values()))
    first = before.items[0]
    match kind:
        case "background":
            taken = {item.colour for item in before.items} | {before.background}
            others = [name for name in world.BACKGROUNDS if name not in taken]
            return Change(before, replace(before, background=others[rng.integers(len(others))]))
        case "replace" if first.colour is None and before.relation != "several":
            name = world.THINGS[rng.integers(len(world.THINGS))].name
            if name not in {item.name for item in before.items}:
                return Change(before, replace(before, items=(replace(first, name=name), *before.items[1:])))
        case "recolour" if first.colour is not None:
            others = [name for name in world.COLOURS if name not in (first.colour, before.background)]
            colour = others[rng.integers(len(others))]
            items = tuple(replace(item, colour=colour) for item in before.items)
            return Change(before, replace(before, items=items))
        case "remove" if before.relation != "several":
            return Change(before, replace(before, items=before.items[1:], relation=None))
    return None


def instruction(change: Change, rng: np.random.Generator) -> str:
    """One of the ways to ask for it."""
    before, after = change.before, change.after
    if before.background != after.background:
        return _of_background(after.background, rng)
    gone, new = before.items[0], after.items[0] if after.items else None
    name = _named(gone, rng)
    if len(after.items) < len(before.items) or new is None:
        return _pick(rng, f"remove the {name}", f"delete the {name}", f"take away the {name}", f"erase the {name}")
    if gone.colour != new.colour:
        return _pick(rng, *_of_colour(gone, name, new.colour or "", is_alone=before.relation is None))
    return _pick(rng, *_of_thing(name, captions.with_article(_named(new, rng)), is_alone=before.relation is None))


def _of_colour(gone: world.Placed, name: str, colour: str, *, is_alone: bool) -> list[str]:
    ways = [
        f"change the {gone.colour} {name} to {colour}",
        f"make the {name} {colour}",
        f"turn the {gone.colour} {name} {colour}",
        f"change the color of the {name} to {colour}",
    ]
    return [*ways, f"make it {colour}", f"turn it {colour}"] if is_alone else ways


def _of_thing(name: str, other: str, *, is_alone: bool) -> list[str]:
    ways = [
        f"replace the {name} with {other}",
        f"change the {name} to {other}",
        f"turn the {name} into {other}",
        f"make the {name} {other}",
    ]
    return [*ways, f"turn it into {other}", f"make it {other}", f"change it to {other}"] if is_alone else ways


def _of_background(name: str, rng: np.random.Generator) -> str:
    if name in world.COLOURS:
        return _pick(
            rng,
            f"make the background {name}",
            f"change the background to {name}",
            f"turn the background {name}",
            f"put it on a {name} background",
        )
    words = captions.background(name, rng)
    return _pick(rng, f"put it {words}", f"change the background, {words}", f"place it {words}")


def _named(item: world.Placed, rng: np.random.Generator) -> str:
    if item.colour is not None:
        return item.name
    names = next(thing.names for thing in world.THINGS if thing.name == item.name)
    return names[rng.integers(len(names))]


def _pick(rng: np.random.Generator, *choices: str) -> str:
    return choices[rng.integers(len(choices))]


# ---------------------------------------------------------------- changes as latents


@dataclass(frozen=True)
class Changed(Batch):
    """Scenes after a change, with their latents; `seen` is the latents of before, (n, tokens, 128), and `befores` those
    scenes as plain data."""

    seen: torch.Tensor
    befores: list[dict[str, Any]]

    def changes(self) -> list[Change]:
        befores = (world.from_plain(before) for before in self.befores)
        return [Change(before, after) for before, after in zip(befores, self.scenes, strict=True)]


def changed_shelf() -> Shelf[Changed]:
    def make(encoder: Encoder, rng: np.random.Generator) -> Changed:
        width, height = FORMATS[rng.integers(len(FORMATS))]
        changes = [imagine(rng, width, height, held_out=False) for _ in range(BATCH)]
        before, after = (
            encoder.latents(to_tensor(np.stack([world.paint(scene) for scene in scenes])))
            for scenes in ([change.before for change in changes], [change.after for change in changes])
        )
        scenes = [change.after for change in changes]
        return Changed(scenes, after, before, [asdict(change.before) for change in changes])

    shelf = Shelf("changed", 480, Changed, make)
    shelf.fill(least=5 * SHARD_BATCHES)
    return shelf


def said(change: Change, rng: np.random.Generator, unsaid: float) -> str:
    """What the member is told: nothing in a share `unsaid`, a caption or an instruction in the others."""
    if rng.random() < unsaid:
        return ""
    if change.after.items and rng.random() < TOLD_BY_CAPTION:
        return captions.plain_caption(change.after)
    return instruction(change, rng)


def _show(reader: Reader) -> Callable[[Changed, float], Shown]:
    """The picture as it was and, in words, what shall become of it."""
    rng = np.random.default_rng()

    def show(batch: Changed, unsaid: float) -> Shown:
        words = reader.read([said(change, rng, unsaid) for change in batch.changes()])
        return Shown(words, change_weights(batch), reference=batch.seen.to(device()))

    return show


def change_weights(batch: Changed) -> torch.Tensor:
    """How much each token's error counts, (n, tokens, 1), mean 1: what changes, and things, more than what stays."""
    changed = (batch.latents.float() - batch.seen.float()).abs().mean(2, keepdim=True) > 0.1
    weights = 1 + (CHANGED_WEIGHT - 1) * changed
    return (weights / weights.mean()).to(device())


# ---------------------------------------------------------------- the two stages


def train_seen(minutes: float) -> None:
    teach_flow("edit_seen", minutes, changed_shelf(), lambda: read_member("base"), _show(Reader()), BASE_RATE)


def train_guided(minutes: float) -> None:
    reader = Reader()
    teach_guidance("edit", minutes, "edit_seen", changed_shelf(), _show(reader), reader.read([""] * BATCH))


STAGES = {"seen": train_seen, "guided": train_guided}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--minutes", type=float, default=30)
    chosen = parser.parse_args()
    sit_together()
    STAGES[chosen.stage](chosen.minutes)
