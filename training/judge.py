"""The judge: says what a picture of the world shows, by comparing it with rendered references. No network.

Every lone item the world can paint (each thing and each shape in each colour, in every size, at every place of the
32-pixel grid, on every background) is held against the picture, and the nearest one by squared error
is the verdict. Scenes of several items are not judged here.

The nearest is not yet a likeness. `Verdict.error` is the share of the item's detail that is missing or wrong: 0 in a
perfect drawing, 1 in an empty picture, and above one half in anything as blurred as `OUT_OF_FOCUS`, so that a lucky
smudge does not count as drawn.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from training import world

Floats = NDArray[np.float32]

SIDE = 256  # pixels; side of the pictures judged
SHRINK = 4  # pictures are compared at a quarter of their side: 64x64
OUT_OF_FOCUS = 1 / 12  # of an item's side: detail is what a blur of this deviation takes away
MOST_ERROR = 0.5  # above it nothing counts as drawn
ELSEWHERE = "elsewhere"  # a spot that no place of the world has


@dataclass(frozen=True)
class Verdict:
    """What a picture shows. `place` is one of `world.PLACES` or `ELSEWHERE`; `error` is explained above."""

    background: str
    name: str
    colour: str | None
    size: str
    place: str
    error: float

    @property
    def is_drawn(self) -> bool:
        """Whether the picture is like its best match at all."""
        return self.error <= MOST_ERROR


def verdicts(pictures: world.Pixels) -> list[Verdict]:
    """What each picture shows; `pictures` is (n, 256, 256, 3)."""
    if pictures.shape[1:] != (SIDE, SIDE, 3):
        raise ValueError(f"pictures must be (n, {SIDE}, {SIDE}, 3), not {pictures.shape}")
    seen = np.concatenate([_reduced(picture[None]) for picture in pictures])  # one by one: floats are large
    return [_verdict(picture, scene) for picture, scene in zip(pictures, _best_matches(seen), strict=True)]


def place_of(side: int, left: int, top: int) -> str:
    """The place that `world.one` would have called this spot."""
    free = (SIDE - side) // world.GRID
    middle = {free // 2 * world.GRID, (free + 1) // 2 * world.GRID}
    if left in middle and top in middle:
        return "centre"
    if top in middle:
        return {0: "left", SIDE - side: "right"}.get(left, ELSEWHERE)
    if left in middle:
        return {0: "top", SIDE - side: "bottom"}.get(top, ELSEWHERE)
    return ELSEWHERE


# ---------------------------------------------------------------- the nearest reference


@dataclass(frozen=True)
class _References:
    """All sprites of one size, reduced: colours times coverage (m, s, s, 3) in [0, 1], and coverage (m, s, s, 1)."""

    sprites: tuple[tuple[str, str | None], ...]
    colours: Floats
    coverage: Floats


def _best_matches(seen: Floats) -> list[world.Scene]:
    """For each reduced picture, (n, 64, 64, 3), the scene with the smallest squared error over the whole picture."""
    least = np.full(len(seen), np.inf, np.float32)
    best: list[world.Scene] = [world.Scene((), "")] * len(seen)
    for background in world.BACKGROUNDS:
        behind = _reduced(world.backdrop(background, SIDE, SIDE)[None])[0]
        unlike = seen - behind
        without = np.square(unlike).sum((1, 2, 3))  # the error if nothing stood before the background
        for size, side in world.SIZES.items():
            references = _references(side)
            for left, top in _spots(side):
                window = _window(side, left, top)
                added = references.colours - references.coverage * behind[window]
                added = added.reshape(len(added), -1)
                patches = unlike[:, *window].reshape(len(seen), -1)
                # |patch - added|^2 - |patch|^2, for every picture and reference
                gain = np.square(added).sum(1) - 2 * patches @ added.T
                gain[:, [colour == background for _, colour in references.sprites]] = np.inf  # none can be seen
                nearest = gain.argmin(1)
                error = without + gain[np.arange(len(seen)), nearest]
                for number in np.flatnonzero(error < least):
                    name, colour = references.sprites[nearest[number]]
                    item = world.Placed(name, colour, side, left, top)
                    best[number] = world.Scene((item,), background, size=size, place=place_of(side, left, top))
                least = np.minimum(least, error)
    return best


@lru_cache(maxsize=len(world.SIZES))
def _references(side: int) -> _References:
    things = [(thing.name, None) for thing in world.THINGS]
    shapes = [(shape, colour) for shape in world.SHAPES for colour in world.COLOURS]
    sprites = (*things, *shapes)
    drawn = np.stack([world.sprite(name, colour, side) for name, colour in sprites])
    fractions = drawn.astype(np.float32) / np.float32(255)
    coverage = fractions[..., 3:]
    return _References(sprites, _averaged(fractions[..., :3] * coverage), _averaged(coverage))


def _spots(side: int) -> list[tuple[int, int]]:
    steps = range(0, SIDE - side + 1, world.GRID)
    return [(left, top) for left in steps for top in steps]


def _window(side: int, left: int, top: int) -> tuple[slice, slice]:
    """Where a box lies in a reduced picture: rows, columns."""
    return slice(top // SHRINK, (top + side) // SHRINK), slice(left // SHRINK, (left + side) // SHRINK)


# ---------------------------------------------------------------- how like it is


def _verdict(picture: world.Pixels, scene: world.Scene) -> Verdict:
    item = scene.items[0]
    window = _window(item.side, item.left, item.top)
    bare = world.backdrop(scene.background, SIDE, SIDE)
    seen, wanted, behind = (_detail(pixels, item.side)[window] for pixels in (picture, world.paint(scene), bare))
    error = np.square(seen - wanted).sum() / np.square(wanted - behind).sum()
    return Verdict(scene.background, item.name, item.colour, scene.size, scene.place, float(error))


def _detail(picture: world.Pixels, side: int) -> Floats:
    """What a blur takes away from a picture with an item of `side` pixels, reduced."""
    blurred = np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(side * OUT_OF_FOCUS)))
    lost: Floats = _reduced(picture[None])[0] - _reduced(blurred[None])[0]
    return lost


def _reduced(pictures: world.Pixels) -> Floats:
    """(n, h, w, 3) uint8 -> (n, h/4, w/4, 3) in [0, 1]."""
    return _averaged(pictures.astype(np.float32) / np.float32(255))


def _averaged(pixels: Floats) -> Floats:
    """The mean of every 4x4 block: (n, h, w, c) -> (n, h/4, w/4, c)."""
    count, height, width, channels = pixels.shape
    blocks = pixels.reshape(count, height // SHRINK, SHRINK, width // SHRINK, SHRINK, channels)
    means: Floats = blocks.mean((2, 4), dtype=np.float32)
    return means
