"""The world the mini family draws: things, shapes, backgrounds, and captions that name them.

A `Scene` is plain data; `paint` turns it into pixels and `training.captions` into words. Nothing here knows of
neural networks. Things are glyphs of the Noto Color Emoji font (SIL Open Font License 1.1), rendered once into
``training/glyphs.png`` by ``python -m training.world``, so that nobody needs the font afterwards.

Boxes lie on a grid of 32 pixels, which is one token of the mini transformer: the same thing at another place is the
same tokens at another place, and a small network learns it many times faster than at free positions.
"""

import hashlib
import sys
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from training import people

Pixels = NDArray[np.uint8]

GRID = 32  # pixels; one token
CELL = 128  # pixels; side of a glyph in the sheet
SHEET = Path(__file__).with_name("glyphs.png")
FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
HELD_OUT_ONE_IN = 10


@dataclass(frozen=True)
class Thing:
    """One thing of the world: its glyph ("" = drawn by us) and its names, the usual one first."""

    glyph: str
    names: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.names[0]


THINGS: tuple[Thing, ...] = (
    Thing("🐱", ("cat", "kitten", "kitty")),
    Thing("🐶", ("dog", "puppy")),
    Thing("🐻", ("bear",)),
    Thing("🦊", ("fox",)),
    Thing("🐼", ("panda",)),
    Thing("🦁", ("lion",)),
    Thing("🐯", ("tiger",)),
    Thing("🐮", ("cow",)),
    Thing("🐷", ("pig",)),
    Thing("🐸", ("frog",)),
    Thing("🐵", ("monkey", "ape")),
    Thing("🐰", ("rabbit", "bunny")),
    Thing("🐭", ("mouse",)),
    Thing("🦄", ("unicorn",)),
    Thing("🐥", ("chick", "bird")),
    Thing("🐧", ("penguin",)),
    Thing("🦉", ("owl",)),
    Thing("🐠", ("fish",)),
    Thing("🐳", ("whale",)),
    Thing("🐙", ("octopus",)),
    Thing("🦋", ("butterfly",)),
    Thing("🐞", ("ladybug", "beetle")),
    Thing("🐢", ("turtle", "tortoise")),
    Thing("🐘", ("elephant",)),
    Thing("🍎", ("apple",)),
    Thing("🍌", ("banana",)),
    Thing("🍓", ("strawberry",)),
    Thing("🍉", ("watermelon", "melon")),
    Thing("🍕", ("pizza",)),
    Thing("🍔", ("burger", "hamburger")),
    Thing("🍰", ("cake",)),
    Thing("🍦", ("ice cream",)),
    Thing("🍩", ("donut", "doughnut")),
    Thing("🍄", ("mushroom", "toadstool")),
    Thing("🚗", ("car", "automobile")),
    Thing("🚌", ("bus",)),
    Thing("🚀", ("rocket", "spaceship")),
    Thing("⛵", ("boat", "sailboat", "ship")),
    Thing("🚂", ("train", "locomotive")),
    Thing("🌳", ("tree",)),
    Thing("🌵", ("cactus",)),
    Thing("🌻", ("sunflower", "flower")),
    Thing("🌹", ("rose",)),
    Thing("🌞", ("sun",)),
    Thing("🏠", ("house", "home", "cottage")),
    Thing("🏰", ("castle",)),
    Thing("🌂", ("umbrella",)),
    Thing("🎈", ("balloon",)),
    Thing("⏰", ("clock",)),
    Thing("🎸", ("guitar",)),
    Thing("👑", ("crown",)),
    Thing("⚽", ("football", "ball")),
    Thing("🤖", ("robot",)),
    Thing("👻", ("ghost",)),
    Thing("⛄", ("snowman",)),
    Thing("🎁", ("gift", "present")),
    Thing("🎃", ("pumpkin",)),
    Thing("👧", ("girl",)),
    Thing("👦", ("boy",)),
    Thing("👩", ("woman",)),
    Thing("🎅", ("santa",)),
    Thing("👸", ("princess", "queen")),
    Thing("🦸", ("superman", "superhero", "hero")),
    Thing("", ("spiderman",)),
    Thing("🌃", ("city", "town", "skyline")),
)

PERSON = "person"
SHAPES = ("circle", "square", "triangle", "diamond", "star", "heart", "ring")

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "orange": (245, 130, 32),
    "yellow": (250, 214, 50),
    "green": (56, 158, 60),
    "teal": (22, 140, 140),
    "blue": (40, 84, 210),
    "purple": (128, 58, 180),
    "pink": (250, 150, 190),
    "brown": (124, 80, 46),
    "white": (246, 246, 246),
    "gray": (140, 144, 150),
    "black": (24, 24, 28),
}

SCENES = ("grass", "sea", "night", "sunset", "snow")
BACKGROUNDS = (*COLOURS, *SCENES)

SIZES = {"little": 96, "medium": 160, "big": 224}
PLACES = ("centre", "left", "right", "top", "bottom")


@dataclass(frozen=True)
class Placed:
    """A thing, shape or person in a picture: its box is `side` pixels wide and high, its corner at (left, top).

    `colour` is that of a shape or of a person's clothes, `figure` what a person does."""

    name: str
    colour: str | None
    side: int
    left: int
    top: int
    figure: people.Figure | None = None


@dataclass(frozen=True)
class Scene:
    """What a picture shows. `size` and `place` describe a lone item; `relation` two of them.

    A `place` may be "anywhere", of which no caption speaks."""

    items: tuple[Placed, ...]
    background: str
    width: int = 256
    height: int = 256
    size: str = "medium"
    place: str = "centre"
    relation: str | None = None

    @property
    def is_held_out(self) -> bool:
        """True for the combinations of items and background that training never sees."""
        words = [f"{item.colour or ''} {item.name}" for item in self.items]
        key = "|".join([*sorted(words), self.background])
        return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % HELD_OUT_ONE_IN == 0


def from_plain(values: dict[str, Any]) -> Scene:
    """The scene that `dataclasses.asdict` made `values` of."""
    return Scene(**{**values, "items": tuple(_placed_from_plain(item) for item in values["items"])})


def _placed_from_plain(values: dict[str, Any]) -> Placed:
    figure = values.get("figure")
    return Placed(**{**values, "figure": figure and people.from_plain(figure)})


# ---------------------------------------------------------------- inventing scenes


def imagine(
    rng: np.random.Generator, *, held_out: bool, plain: float = 0.0, width: int = 256, height: int = 256
) -> Scene:
    """A random scene, from the held-out combinations or from the others.

    `plain` is the share of scenes that are one thing, big and centred: the alphabet, learned first. Scenes that are
    not square hold one item, not big.
    """
    while True:
        if (width, height) != (256, 256):
            scene = _alone(rng, width, height)
        else:
            scene = _plain(rng) if rng.random() < plain else _any(rng)
        if scene.is_held_out == held_out:
            return scene


def _alone(rng: np.random.Generator, width: int, height: int) -> Scene:
    background, size = _background(rng), ("little", "medium")[rng.integers(2)]
    name, colour = any_item(rng, background)
    place = PLACES[rng.integers(len(PLACES))] if rng.random() < 0.7 else "centre"
    return one(name, colour, background, size, place, width, height)


def _plain(rng: np.random.Generator) -> Scene:
    return one(THINGS[rng.integers(len(THINGS))].name, None, _background(rng), "big", "centre")


def _any(rng: np.random.Generator) -> Scene:
    kind = rng.random()
    background = _background(rng)
    if kind < 0.54:
        size = ("little", "medium", "medium", "big")[rng.integers(4)]
        place = PLACES[rng.integers(len(PLACES))] if size != "big" and rng.random() < 0.7 else "centre"
        return one(THINGS[rng.integers(len(THINGS))].name, None, background, size, place)
    if kind < 0.70:
        size = ("little", "medium", "medium", "big")[rng.integers(4)]
        place = PLACES[rng.integers(len(PLACES))] if size != "big" and rng.random() < 0.7 else "centre"
        name, colour = _shape(rng, background)
        return one(name, colour, background, size, place)
    if kind < 0.86:
        return _pair(rng, background)
    if kind < 0.92:
        return _several(rng, background)
    return someone(rng, background)


def one(
    name: str,
    colour: str | None,
    background: str,
    size: str,
    place: str,
    width: int = 256,
    height: int = 256,
) -> Scene:
    """A scene of one item: `place` is exact along its own axis, in the middle along the other.

    Every size and place is one spot: where several had been possible, a flow drew halves of a thing at two of them.
    """
    side = SIZES[size]
    left, top = _middle(width, side), _middle(height, side)
    match place:
        case "left":
            left = 0
        case "right":
            left = width - side
        case "top":
            top = 0
        case "bottom":
            top = height - side
    return Scene((Placed(name, colour, side, left, top),), background, width, height, size, place)


def someone(rng: np.random.Generator, background: str) -> Scene:
    """A person, not little: its limbs would be no wider than a few pixels."""
    colours = [colour for colour in COLOURS if colour != background]
    size = ("medium", "big")[rng.integers(2)]
    place = PLACES[rng.integers(len(PLACES))] if size == "medium" and rng.random() < 0.5 else "centre"
    scene = one(PERSON, colours[rng.integers(len(colours))], background, size, place)
    return replace(scene, items=(replace(scene.items[0], figure=people.figure(rng)),))


def _middle(length: int, side: int) -> int:
    """The corner on the grid that centres `side` in `length`, or comes half a step before it where none is exact."""
    return (length - side) // GRID // 2 * GRID


def _pair(rng: np.random.Generator, background: str) -> Scene:
    """Two different things side by side or one above the other: "a cat to the left of a tree"."""
    first, second = rng.choice(len(THINGS), 2, replace=False)
    side, far = 96, 256 - 96
    relation = ("left of", "above")[rng.integers(2)]
    corners = [(along, _middle(256, side)) for along in (0, far)]
    if relation == "above":
        corners = [(top, left) for left, top in corners]
    items = tuple(
        Placed(THINGS[which].name, None, side, left, top)
        for which, (left, top) in zip((first, second), corners, strict=True)
    )
    return Scene(items, background, relation=relation)


def _several(rng: np.random.Generator, background: str) -> Scene:
    """Two or three of the same: "two dogs"."""
    name, colour = any_item(rng, background)
    corners = (((32, 64), (128, 64)), ((0, 32), (160, 32), (64, 160)))[rng.integers(2)]
    items = tuple(Placed(name, colour, 96, left, top) for left, top in corners)
    return Scene(items, background, relation="several")


def any_item(rng: np.random.Generator, background: str) -> tuple[str, str | None]:
    """The name and colour of a thing (four times in five) or of a shape, to be seen before `background`."""
    return (THINGS[rng.integers(len(THINGS))].name, None) if rng.random() < 0.8 else _shape(rng, background)


def _shape(rng: np.random.Generator, background: str) -> tuple[str, str]:
    colours = [colour for colour in COLOURS if colour != background]
    return SHAPES[rng.integers(len(SHAPES))], colours[rng.integers(len(colours))]


def _background(rng: np.random.Generator) -> str:
    return BACKGROUNDS[rng.integers(len(BACKGROUNDS))]


# ---------------------------------------------------------------- painting them


def paint(scene: Scene) -> Pixels:
    """The picture of a scene: (height, width, 3) uint8."""
    canvas = backdrop(scene.background, scene.width, scene.height).copy()
    for item in scene.items:
        box = canvas[item.top : item.top + item.side, item.left : item.left + item.side]
        box[:] = _blend(box, sprite_of(item))
    return canvas


def sprite_of(item: Placed) -> Pixels:
    """An item in its box, (side, side, 4) uint8 with straight alpha."""
    if item.figure is None or item.colour is None:
        return sprite(item.name, item.colour, item.side)
    return people.sprite(item.figure.pose, COLOURS[item.colour], item.side)


def _blend(under: Pixels, over: Pixels) -> Pixels:
    alpha = over[..., 3:].astype(np.uint16)
    mixed = over[..., :3] * alpha + under * (255 - alpha)
    return ((mixed + 127) // 255).astype(np.uint8)


@lru_cache(maxsize=256)
def backdrop(name: str, width: int, height: int) -> Pixels:
    """A background alone, (height, width, 3) uint8."""
    down = np.linspace(0, 1, height)[:, None, None]
    across = np.linspace(0, 1, width)[None, :, None]
    if name in COLOURS:
        picture = np.broadcast_to(np.array(COLOURS[name], float), (height, width, 3))
    elif name == "grass":
        picture = np.where(
            down < 0.45,
            _ramp((120, 190, 250), (200, 230, 255), down / 0.45),
            _ramp((110, 190, 70), (50, 130, 40), (down - 0.45) / 0.55),
        )
    elif name == "sea":
        picture = np.where(
            down < 0.4,
            _ramp((150, 210, 250), (225, 242, 255), down / 0.4),
            _ramp((40, 130, 190), (10, 60, 120), (down - 0.4) / 0.6),
        )
    elif name == "night":
        picture = _ramp((10, 12, 40), (50, 44, 110), down)
    elif name == "sunset":
        picture = _ramp((110, 60, 140), (255, 170, 80), down)
    elif name == "snow":
        picture = np.where(
            down < 0.55,
            _ramp((170, 195, 220), (225, 235, 245), down / 0.55),
            _ramp((250, 252, 255), (225, 232, 245), (down - 0.55) / 0.45),
        )
    else:
        raise ValueError(f"no background is called {name!r}")
    picture = np.broadcast_to(picture + 0 * across, (height, width, 3)).copy()
    if name == "night":
        for x, y in (
            (0.06, 0.1),
            (0.3, 0.05),
            (0.55, 0.12),
            (0.8, 0.06),
            (0.94, 0.3),
            (0.04, 0.5),
            (0.95, 0.62),
            (0.1, 0.85),
            (0.9, 0.9),
        ):
            top, left = int(y * height), int(x * width)
            picture[top : top + 4, left : left + 4] = (255, 250, 210)
    pixels: Pixels = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
    pixels.setflags(write=False)
    return pixels


def _ramp(start: tuple[int, int, int], end: tuple[int, int, int], at: NDArray[np.float64]) -> NDArray[np.float64]:
    colours: NDArray[np.float64] = np.array(start) + (np.array(end) - np.array(start)) * np.clip(at, 0, 1)
    return colours


@lru_cache(maxsize=4096)
def sprite(name: str, colour: str | None, side: int) -> Pixels:
    """A thing or coloured shape in its box, (side, side, 4) uint8 with straight alpha."""
    whole = _shape_sprite(name, COLOURS[colour]) if colour else _glyph(name)
    # Premultiplied while resizing, so that transparent black does not bleed into the edges.
    premultiplied = whole.convert("RGBa").resize((side, side), Image.Resampling.LANCZOS, reducing_gap=None)
    return np.asarray(premultiplied.convert("RGBA"))


@lru_cache(maxsize=1)
def _sheet() -> Image.Image:
    return Image.open(SHEET).convert("RGBA")


def _glyph(name: str) -> Image.Image:
    names = [thing.name for thing in THINGS]
    row, column = divmod(names.index(name), 8)
    return _sheet().crop((column * CELL, row * CELL, (column + 1) * CELL, (row + 1) * CELL))


def _shape_sprite(name: str, colour: tuple[int, int, int]) -> Image.Image:
    big = CELL * 4  # drawn four times too large, then reduced: smooth edges
    image = Image.new("RGBA", (big, big), (*colour, 0))
    draw = ImageDraw.Draw(image)
    fill = (*colour, 255)

    def at(*points: tuple[float, float]) -> list[tuple[float, float]]:
        return [(x * big, y * big) for x, y in points]

    match name:
        case "circle":
            draw.ellipse(at((0.06, 0.06), (0.94, 0.94)), fill)
        case "square":
            draw.rectangle(at((0.1, 0.1), (0.9, 0.9)), fill)
        case "triangle":
            draw.polygon(at((0.5, 0.06), (0.96, 0.9), (0.04, 0.9)), fill)
        case "diamond":
            draw.polygon(at((0.5, 0.02), (0.84, 0.5), (0.5, 0.98), (0.16, 0.5)), fill)
        case "ring":
            draw.ellipse(at((0.06, 0.06), (0.94, 0.94)), fill)
            draw.ellipse(at((0.27, 0.27), (0.73, 0.73)), (*colour, 0))
        case "star":
            turns = np.arange(10) * np.pi / 5 - np.pi / 2
            radii = np.where(np.arange(10) % 2 == 0, 0.48, 0.2)
            draw.polygon(
                at(*((0.5 + r * np.cos(a), 0.52 + r * np.sin(a)) for r, a in zip(radii, turns, strict=True))), fill
            )
        case "heart":
            turn = np.linspace(0, 2 * np.pi, 90)
            x = 16 * np.sin(turn) ** 3
            y = 13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn)
            draw.polygon(at(*((0.5 + 0.028 * a, 0.46 - 0.028 * b) for a, b in zip(x, y, strict=True))), fill)
        case _:
            raise ValueError(f"no shape is called {name!r}")
    return image


# ---------------------------------------------------------------- rendering the sheet


def render_sheet(font: Path = FONT) -> Image.Image:
    """Every thing's glyph in a cell of its own, eight to a row."""
    face = ImageFont.truetype(str(font), 109)  # the only size of the font's bitmaps
    rows = -(-len(THINGS) // 8)
    sheet = Image.new("RGBA", (8 * CELL, rows * CELL))
    for number, thing in enumerate(THINGS):
        row, column = divmod(number, 8)
        sheet.paste(_rendered(thing.glyph, face) if thing.glyph else _masked_hero(), (column * CELL, row * CELL))
    return sheet


def _rendered(glyph: str, face: ImageFont.FreeTypeFont) -> Image.Image:
    image = Image.new("RGBA", (200, 200))
    ImageDraw.Draw(image).text((20, 20), glyph, font=face, embedded_color=True)
    image = _undarkened(image)
    box = image.getbbox()
    if box is None:
        raise ValueError(f"the font has no glyph {glyph!r}")
    cut = image.crop(box)
    scale = (CELL - 4) / max(cut.size)
    size = (round(cut.width * scale), round(cut.height * scale))
    cell = Image.new("RGBA", (CELL, CELL))
    cell.paste(
        cut.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA"),
        ((CELL - size[0]) // 2, (CELL - size[1]) // 2),
    )
    return cell


def _undarkened(image: Image.Image) -> Image.Image:
    """Pillow pastes a colour glyph through its own alpha, which leaves colour*alpha and alpha*alpha: undo it."""
    drawn = np.asarray(image).astype(float)
    alpha = np.sqrt(drawn[..., 3:] * 255)
    colour = drawn[..., :3] * 255 / np.maximum(alpha, 1)
    return Image.fromarray(np.clip(np.rint(np.concatenate((colour, alpha), -1)), 0, 255).astype(np.uint8))


def _masked_hero() -> Image.Image:
    """A red mask with a web and two white eyes, drawn here: no glyph of the font shows one."""
    big = CELL * 4
    image = Image.new("RGBA", (big, big))
    draw = ImageDraw.Draw(image)
    face = Image.new("L", (big, big))
    ImageDraw.Draw(face).ellipse((70, 10, big - 70, big - 10), fill=255)
    draw.ellipse((70, 10, big - 70, big - 10), fill=(200, 30, 40, 255))
    middle = (big / 2, big * 0.47)
    for turn in np.arange(0, 2 * np.pi, np.pi / 8):
        draw.line(
            [middle, (middle[0] + big * np.cos(turn), middle[1] + big * np.sin(turn))], fill=(60, 5, 15, 255), width=6
        )
    for radius in range(50, big, 60):
        draw.ellipse(
            (middle[0] - radius, middle[1] - radius, middle[0] + radius, middle[1] + radius),
            outline=(60, 5, 15, 255),
            width=6,
        )
    for sign in (-1, 1):
        eye = [(middle[0] + sign * x, middle[1] + y) for x, y in ((14, 26), (130, -64), (148, 30), (70, 66))]
        draw.polygon(eye, fill=(250, 250, 252, 255), outline=(15, 10, 15, 255), width=14)
    image.putalpha(face)
    return image.convert("RGBa").resize((CELL, CELL), Image.Resampling.LANCZOS).convert("RGBA")


if __name__ == "__main__":
    render_sheet(Path(sys.argv[1]) if len(sys.argv) > 1 else FONT).save(SHEET, optimize=True)
    print(f"{len(THINGS)} things -> {SHEET}")
