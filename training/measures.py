"""Measures of what the family draws from callers' pictures, styles and maps: through fluxserve's own engine, from the
generation to the file, as a caller would get it.

Each measure draws so many pictures of held-out scenes and says how many percent are as they should be.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BytesIO

import cv2
import numpy as np
import torch
from PIL import Image

from fluxserve.domain.catalog import ANNOTATORS, FAMILIES, LORA_FILES
from fluxserve.domain.generation import (
    Control,
    ControlType,
    Edit,
    Generation,
    ImageToImage,
    Inpaint,
    Kind,
    Lora,
    Outpaint,
    TextToImage,
    Variation,
)
from fluxserve.engine.annotators import Annotators
from fluxserve.engine.engine import Engine
from fluxserve.engine.finish import finish
from fluxserve.engine.loras import Loras, finder
from fluxserve.engine.plan import Plan
from fluxserve.engine.png import decode_png
from fluxserve.engine.sources import Sources
from fluxserve.engine.weights import Loader
from training import captions, control, edit, fill, judge, maps, world
from training.card import Score
from training.sitting import FAMILY, device
from training.styles import STYLES, styled
from training.world import Pixels

STEPS, GUIDANCE = 25, 3.5
SQUARE = (judge.SIDE, judge.SIDE)
SEAM = 2.0  # times the picture's own mean step: the largest step over a seam


@dataclass(frozen=True)
class Studio:
    """Draws one picture at a time, 256x256 unless its kind says otherwise."""

    engine: Engine
    annotators: Annotators

    def draw(self, kind: Kind, seed: int, images: Mapping[str, Pixels], **more: object) -> Pixels:
        """`images` are the pictures that the kind names; `more` are further fields of the generation."""
        files = {name: _png(pixels) for name, pixels in images.items()}
        size = {"width": judge.SIDE, "height": judge.SIDE}
        fields = {"steps": STEPS, "guidance_scale": GUIDANCE, "seed": seed} | size | more
        generation = Generation("flux1-dev-advanced", kind, **fields)  # type: ignore[arg-type]
        drawn = self.engine.generate(generation, files, lambda *_: None, lambda: False)
        return decode_png(finish(drawn[0], generation, files).data)

    def map_of(self, mode: ControlType, picture: Pixels) -> Pixels:
        """A picture's control map, 256x256, as the engine sees it."""
        return self.annotators.annotate(mode, _png(picture), SQUARE)


@lru_cache(maxsize=1)
def studio() -> Studio:
    loras = Loras(finder(LORA_FILES["mini"], Sources(FAMILY), None))
    annotators = Annotators(ANNOTATORS["mini"], Sources(FAMILY), device())
    engine = Engine(
        Loader(FAMILIES["mini"], Sources(FAMILY), device(), [Plan(torch.float32)]), loras, annotators, safety=None
    )
    return Studio(engine, annotators)


# ---------------------------------------------------------------- the measures


def image_to_image(count: int) -> tuple[Score, ...]:
    rng, stays, wins, grows = np.random.default_rng(21), [], [], []
    for seed in range(count):
        before, after = (_lone(rng, "medium") for _ in range(2))
        after = replace(after, background=before.background)
        prompt, picture = captions.caption(after, rng), world.paint(before)
        drawn = [
            studio().draw(ImageToImage(prompt, "picture", strength), seed, {"picture": picture})
            for strength in (0.3, 0.6, 1.0)
        ]
        first, _, last = judge.verdicts(np.stack(drawn))
        stays.append(first.name == before.items[0].name)
        wins.append(last.name == after.items[0].name)
        apart = [float(np.square(picture.astype(float) - each).mean()) for each in drawn]
        grows.append(apart == sorted(apart))
    return (
        _share("at a denoising strength of 0.3 the thing stays", 95, stays),
        _share("at 1.0 the prompt wins", 95, wins),
        _share("the distance grows with the denoising strength", 95, grows),
    )


def inpaint(count: int) -> tuple[Score, ...]:
    rng, kept, named = np.random.default_rng(22), [], []
    for seed in range(count):
        scene, mask = _holed(rng)
        images = {"picture": world.paint(scene), "mask": np.repeat(mask[..., None] * np.uint8(255), 3, axis=2)}
        prompt = fill.caption(scene, rng)
        drawn = studio().draw(Inpaint(prompt, "picture", "mask"), seed, images)
        kept.append(np.array_equal(drawn[~mask], images["picture"][~mask]))
        named.append(judge.verdicts(drawn[None])[0].name == scene.items[0].name)
    return (
        _share("outside the mask every pixel is the picture's own", 100, kept),
        _share("inside, the thing named", 90, named),
    )


def outpaint(count: int) -> tuple[Score, ...]:
    rng, kept, seamless = np.random.default_rng(23), [], []
    for seed in range(count):
        scene = _lone(rng, "medium", "centre")
        cut = int(rng.integers(16, 80))
        picture = world.paint(scene)[:, : judge.SIDE - cut]
        prompt = captions.caption(scene, rng)
        drawn = studio().draw(Outpaint(prompt, "picture", 0, cut, 0, 0), seed, {"picture": picture})
        kept.append(np.array_equal(drawn[:, : judge.SIDE - cut], picture))
        steps = np.abs(np.diff(drawn.astype(float), axis=1)).mean((0, 2))
        own = np.abs(np.diff(world.paint(scene).astype(float), axis=1)).mean((0, 2)).mean()
        seamless.append(steps[judge.SIDE - cut - 1] <= max(1.0, SEAM * own))
    return (
        _share("the old area is kept", 95, kept),
        _share("the background goes on across the seam", 95, seamless),
    )


def edits(count: int) -> tuple[Score, ...]:
    rng, changed = np.random.default_rng(24), []
    whole: list[bool] = []
    while len(whole) < count:
        change = edit.imagine(rng, judge.SIDE, judge.SIDE, held_out=True)
        if len(change.before.items) != 1 or not change.after.items or change.before.items[0].figure:
            continue
        prompt, picture = edit.instruction(change, rng), world.paint(change.before)
        drawn = studio().draw(Edit(prompt, "picture"), len(whole), {"picture": picture}, guidance_scale=2.5)
        verdict, item = judge.verdicts(drawn[None])[0], change.after.items[0]
        is_thing = (verdict.name, verdict.colour) == (item.name, item.colour)
        is_background = verdict.background == change.after.background
        changed.append(is_background if change.before.background != change.after.background else is_thing)
        whole.append(is_thing and is_background and verdict.place == change.after.place)
    return (
        _share("the asked change happened", 85, changed),
        _share("and the rest stayed", 85, whole),
    )


def variations(count: int) -> tuple[Score, ...]:
    rng, same = np.random.default_rng(25), []
    for seed in range(count):
        scene = _lone(rng, "medium")
        picture = world.paint(scene)
        drawn = [studio().draw(Variation("a picture", "picture"), 2 * seed + k, {"picture": picture}) for k in range(2)]
        things = {verdict.name for verdict in judge.verdicts(np.stack(drawn))}
        differ = np.abs(drawn[0].astype(int) - drawn[1]).mean() > 1
        same.append(things == {scene.items[0].name} and bool(differ))
    return (_share("the same thing in two different pictures", 90, same),)


def pairs(count: int) -> tuple[Score, ...]:
    """Two different things at once: which thing is the best match in each one's own box."""
    rng, each, both = np.random.default_rng(28), [], []
    for seed in range(count):
        scene = _two(rng)
        drawn = studio().draw(TextToImage(captions.caption(scene, rng)), seed, {})
        right = [
            _nearest(_box(drawn, item), _alone_in_its_box(scene.background, item)) == item.name for item in scene.items
        ]
        each += right
        both.append(all(right))
    return (
        _share("of two different things, each is the best match at its place", None, each),
        _share("both are", None, both),
    )


def controls(count: int) -> tuple[Score, ...]:
    """How near the map of what is drawn is to the map that was given, with the control against without."""
    rng, scores = np.random.default_rng(26), []
    for mode, (likeness, words) in LIKENESS.items():
        near: dict[bool, list[float]] = {True: [], False: []}
        for seed in range(count):
            scene = _someone(rng) if mode == "openpose" else _somewhere(rng)
            given = maps.control_map(mode, scene)
            prompt, images = TextToImage(fill.caption(scene, rng)), {"picture": world.paint(scene)}
            for is_on in (True, False):
                followed = Control(mode, "picture", 1.0) if is_on else None
                drawn = studio().draw(prompt, seed, images, control=followed)
                near[is_on].append(likeness(given, studio().map_of(mode, drawn)))
        with_it, without = (float(np.mean(near[is_on])) for is_on in (True, False))
        better = [one > other for one, other in zip(near[True], near[False], strict=True)]
        scores += [
            Score(f"{mode}: {words} with the control, against without", "times", 2, with_it / max(0.01, without)),
            Score(f"{mode}: {words} with the control", "%", None, 100 * with_it),
            _share(f"{mode}: nearer to the map with the control", None, better),
        ]
    return tuple(scores)


def loras(count: int) -> tuple[Score, ...]:
    """`count` pictures of each style."""
    rng, things, taken = np.random.default_rng(27), [], 0
    for style in STYLES:
        moved = []
        for seed in range(count):
            scene = _lone(rng, "big")
            drawn = studio().draw(TextToImage(captions.caption(scene, rng)), seed, {}, lora=Lora(style, 1.0))
            plain = world.paint(scene)
            looks = {name: styled(name, plain) for name in STYLES} | {"none": plain}
            moved.append(_nearest(drawn, looks) == style)
            others = {thing.name: styled(style, world.paint(_with(scene, thing.name))) for thing in world.THINGS}
            things.append(_nearest(drawn, others) == scene.items[0].name)
        taken += sum(moved) * 2 > count
    return (
        Score("styles that most pictures have taken", "of 23", 23, taken),
        _share("the thing is still right", 85, things),
    )


MEASURES: dict[str, Callable[[int], tuple[Score, ...]]] = {
    "pairs": pairs,
    "img2img": image_to_image,
    "fill": inpaint,
    "outpaint": outpaint,
    "edit": edits,
    "variation": variations,
    "control": controls,
    "loras": loras,
}


# ---------------------------------------------------------------- scenes and distances


def _lone(rng: np.random.Generator, size: str, place: str | None = None) -> world.Scene:
    """A held-out thing of a size."""
    while True:
        background = world.BACKGROUNDS[rng.integers(len(world.BACKGROUNDS))]
        name = world.THINGS[rng.integers(len(world.THINGS))].name
        where = place or ("centre" if size == "big" else world.PLACES[rng.integers(len(world.PLACES))])
        scene = world.one(name, None, background, size, where)
        if scene.is_held_out:
            return scene


def _two(rng: np.random.Generator) -> world.Scene:
    """Two held-out things, one left of the other or above it."""
    while True:
        scene = world.imagine(rng, held_out=True)
        if scene.relation in ("left of", "above"):
            return scene


def _box(pixels: Pixels, item: world.Placed) -> Pixels:
    return pixels[item.top : item.top + item.side, item.left : item.left + item.side]


def _alone_in_its_box(background: str, item: world.Placed) -> dict[str, Pixels]:
    """What each of all things would look like there."""
    scenes = {thing.name: world.Scene((replace(item, name=thing.name),), background) for thing in world.THINGS}
    return {name: _box(world.paint(scene), item) for name, scene in scenes.items()}


def _with(scene: world.Scene, name: str) -> world.Scene:
    return replace(scene, items=(replace(scene.items[0], name=name),))


def _holed(rng: np.random.Generator) -> tuple[world.Scene, fill.Mask]:
    """A held-out thing anywhere, and a hole that hides it."""
    scene = _somewhere(rng)
    return scene, fill.about(rng, scene.items[0], judge.SIDE, judge.SIDE)


def _somewhere(rng: np.random.Generator) -> world.Scene:
    while True:
        scene = fill.anywhere(rng, judge.SIDE, judge.SIDE, items=1)
        if scene.is_held_out and scene.items[0].colour is None:
            return scene


def _someone(rng: np.random.Generator) -> world.Scene:
    while not (scene := control.someone_anywhere(rng, judge.SIDE, judge.SIDE)).is_held_out:
        pass
    return scene


def _share(measure: str, bound: float | None, rights: list[bool]) -> Score:
    return Score(measure, "%", bound, 100 * sum(rights) / len(rights))


def _nearest(drawn: Pixels, references: Mapping[str, Pixels]) -> str:
    small = _shrunk(drawn)
    return min(references, key=lambda name: float(np.square(small - _shrunk(references[name])).sum()))


def _shrunk(pixels: Pixels) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.asarray(Image.fromarray(pixels).resize((64, 64), Image.Resampling.BOX), float)


def _overlap(one: Pixels, other: Pixels) -> float:
    """Intersection over union of two maps' lines, each drawn three pixels wide."""
    wide = [cv2.dilate(lines[..., 0], np.ones((3, 3), np.uint8)) > 0 for lines in (one, other)]
    union = float((wide[0] | wide[1]).sum())
    return float((wide[0] & wide[1]).sum()) / union if union else 1.0


def _correlation(one: Pixels, other: Pixels) -> float:
    """Of two maps' brightness; 0 where one of them has none."""
    first, second = one[..., 0].reshape(-1).astype(float), other[..., 0].reshape(-1).astype(float)
    return float(np.corrcoef(first, second)[0, 1]) if first.std() and second.std() else 0.0


def _overlap_of_limbs(one: Pixels, other: Pixels) -> float:
    """Intersection over union of two maps' sticks, where they have the same hue."""
    same = (np.abs(one.astype(int) - other).max(2) < 64) & (one.max(2) > 0)
    union = float(((one.max(2) > 0) | (other.max(2) > 0)).sum())
    return float(same.sum()) / union if union else 1.0


LIKENESS: dict[ControlType, tuple[Callable[[Pixels, Pixels], float], str]] = {
    "canny": (_overlap, "overlap of lines"),
    "soft_edge": (_correlation, "correlation of edges"),
    "depth": (_correlation, "correlation of depth"),
    "openpose": (_overlap_of_limbs, "overlap of limbs"),
}


def _png(pixels: Pixels) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
