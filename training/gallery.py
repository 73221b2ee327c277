"""Contact sheets: fixed prompts, pictures and seeds, as each member draws them, for eyes to judge.

    python -m training.gallery
    python -m training.gallery --members fill,control

writes ``docs/gallery/MEMBER.png`` for every member, and for the LoRAs.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fluxserve.domain.generation import Control, ControlType, Edit, Inpaint, Lora, Outpaint, TextToImage, Variation
from training import fill, judge, world
from training.evaluate import DRAWING, draw
from training.measures import SQUARE, studio
from training.styles import STYLES
from training.world import Pixels, Scene, one

FOLDER = Path(__file__).parents[1] / "docs" / "gallery"
PROMPTS = (
    "a little cat",
    "a bear",
    "a superman",
    "spiderman",
    "a cyberpunk city",
    "a girl in a great grass sea",
    "a big red circle on a teal background",
    "a yellow star at night",
    "a small purple diamond in the snow",
    "a white ring at sunset",
    "a green triangle at the left on pink",
    "a blue heart at the bottom on white",
    "a fox in the snow",
    "a boat on the ocean",
    "a huge castle at sunset",
    "a tiny dog at the right on yellow",
    "a penguin at the top on orange",
    "a robot in space",
    "a cat to the left of a tree",
    "the sun above a house",
    "a princess and a unicorn on purple",
    "two dogs on a green field",
    "three apples on a gray background",
    "two red hearts on black",
)
PICTURES_ACROSS = 6
STRIP = 24  # pixels under a cell, for its words
FONT_SIZE = 13
LEVEL = 4  # of 256 brightnesses


@dataclass(frozen=True)
class Cell:
    """Pictures that belong together, (256, 256, 3) each, and what was asked."""

    words: str
    pictures: tuple[Pixels, ...]


# ---------------------------------------------------------------- what each member is asked


def of_words(member: str) -> list[Cell]:
    pictures = draw(member, list(PROMPTS))
    return [Cell(prompt, (picture,)) for prompt, picture in zip(PROMPTS, pictures, strict=True)]


def _thing(name: str, background: str, size: str = "medium", place: str = "centre") -> Scene:
    return one(name, None, background, size, place)


def of_fill() -> list[Cell]:
    """What was painted over, and what came into the hole; then pictures cut off, and continued."""
    rng, cells = np.random.default_rng(31), []
    for seed, (scene, prompt) in enumerate(
        (
            (_thing("dog", "grass"), "a cat"),
            (_thing("tree", "snow", place="left"), "a snowman"),
            (_thing("boat", "sea"), "a whale"),
            (_thing("sun", "sunset", "little", "top"), "a balloon"),
            (_thing("rocket", "night", place="right"), "a robot"),
            (_thing("apple", "yellow"), "a strawberry"),
            (_thing("car", "teal", "big"), "a big bus"),
            (_thing("fox", "pink", "little"), "a green circle"),
        )
    ):
        mask = fill.about(rng, scene.items[0], *SQUARE)
        picture = np.where(mask[..., None], np.uint8(255), world.paint(scene))
        images = {"picture": picture, "mask": np.repeat(mask[..., None] * np.uint8(255), 3, axis=2)}
        cells.append(Cell(prompt, (picture, studio().draw(Inpaint(prompt, "picture", "mask"), seed, images))))
    for seed, (background, prompt) in enumerate(
        (("grass", "in the grass"), ("sea", "on the ocean"), ("sunset", "at sunset"), ("purple", "on purple"))
    ):
        picture = world.paint(_thing("cat", background, place="left"))[:, :176]
        shown = np.full((judge.SIDE, judge.SIDE, 3), 255, np.uint8)
        shown[:, :176] = picture
        drawn = studio().draw(Outpaint(prompt, "picture", 0, 80, 0, 0), seed, {"picture": picture})
        cells.append(Cell(f"80 pixels more, {prompt}", (shown, drawn)))
    return cells


def of_edit() -> list[Cell]:
    cells = []
    for seed, (scene, prompt) in enumerate(
        (
            (one("circle", "red", "white", "medium", "centre"), "change the red circle to green"),
            (one("star", "yellow", "night", "medium", "left"), "make the star red"),
            (one("heart", "pink", "black", "big", "centre"), "turn the pink heart blue"),
            (_thing("cat", "grass"), "make the background blue"),
            (_thing("boat", "teal", place="bottom"), "change the background, at sunset"),
            (_thing("robot", "white"), "put it in space"),
            (_thing("cat", "yellow"), "replace the cat with a dog"),
            (_thing("apple", "snow", place="right"), "change the apple to a banana"),
            (_thing("house", "grass"), "turn the house into a castle"),
            (_thing("tree", "sea"), "remove the tree"),
            (_thing("ghost", "purple", "big"), "take away the ghost"),
            (_thing("fox", "orange", "little"), "erase the fox"),
        )
    ):
        before = world.paint(scene)
        after = studio().draw(Edit(prompt, "picture"), seed, {"picture": before}, guidance_scale=2.5)
        cells.append(Cell(prompt, (before, after)))
    return cells


def of_variation() -> list[Cell]:
    """A picture, and two that show the same."""
    cells = []
    for number, scene in enumerate(
        (
            _thing("cat", "teal", place="left"),
            _thing("castle", "sunset"),
            _thing("octopus", "sea", "big"),
            _thing("rose", "white", place="top"),
            _thing("clock", "brown"),
            one("star", "yellow", "blue", "medium", "right"),
            _thing("pizza", "green"),
            _thing("penguin", "snow", "little", "bottom"),
        )
    ):
        picture = world.paint(scene)
        drawn = [studio().draw(Variation("", "picture"), 2 * number + k, {"picture": picture}) for k in range(2)]
        cells.append(Cell(f"{scene.items[0].name}, again", (picture, *drawn)))
    return cells


def of_control() -> list[Cell]:
    """A picture, its map, and what was drawn along it."""
    rng, cells = np.random.default_rng(33), []
    asked: tuple[tuple[ControlType, Scene, str], ...] = (
        ("canny", _thing("cat", "teal", place="left"), "a cat on a pink background"),
        ("canny", _thing("house", "snow"), "a house in the grass"),
        ("soft_edge", _thing("butterfly", "yellow"), "a butterfly at night"),
        ("soft_edge", one("star", "red", "white", "medium", "right"), "a blue star on orange"),
        ("depth", _thing("mushroom", "grass"), "a mushroom on purple"),
        ("depth", _thing("dog", "blue", "big"), "a dog in the snow"),
        ("openpose", world.someone(rng, "sea"), "a person in red on a white background"),
        ("openpose", world.someone(rng, "gray"), "a person in green in the grass"),
    )
    for seed, (mode, scene, prompt) in enumerate(asked):
        picture = world.paint(scene)
        seen = studio().map_of(mode, picture)
        drawn = studio().draw(
            TextToImage(prompt), seed, {"picture": picture}, control=Control(mode, "picture", strength=1.0)
        )
        cells.append(Cell(f"{mode}: {prompt}", (picture, seen, drawn)))
    return cells


def of_loras() -> list[Cell]:
    """One picture without any, then the same in every style."""
    cells = []
    for style in (None, *STYLES):
        lora = Lora(style, 1.0) if style else None
        cells.append(Cell(style or "no LoRA", (studio().draw(TextToImage("a cat on teal"), 5, {}, lora=lora),)))
    return cells


SHEETS: dict[str, Callable[[], list[Cell]]] = {
    **{member: partial(of_words, member) for member in DRAWING},
    "fill": of_fill,
    "edit": of_edit,
    "variation": of_variation,
    "control": of_control,
    "loras": of_loras,
}


# ---------------------------------------------------------------- sheets


def contact_sheet(cells: list[Cell]) -> Image.Image:
    """Rows of six pictures, each cell above its words. All cells have as many pictures."""
    each = len(cells[0].pictures)
    across = PICTURES_ACROSS // each
    rows, width = -(-len(cells) // across), each * judge.SIDE
    sheet = Image.new("RGB", (across * width, rows * (judge.SIDE + STRIP)), "white")
    pen, face = ImageDraw.Draw(sheet), ImageFont.load_default(size=FONT_SIZE)
    for number, cell in enumerate(cells):
        row, column = divmod(number, across)
        left, top = column * width, row * (judge.SIDE + STRIP)
        for offset, picture in enumerate(cell.pictures):
            sheet.paste(Image.fromarray(picture), (left + offset * judge.SIDE, top))
        pen.text((left + width / 2, top + judge.SIDE + STRIP / 2), cell.words, "black", face, anchor="mm")
    return sheet


def save(sheet: Image.Image, path: Path) -> None:
    """Rounded to 64 levels a channel: it looks the same, and a sheet takes half the room in the repository."""
    rounded = np.asarray(sheet) // LEVEL * LEVEL + LEVEL // 2
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rounded).save(path, optimize=True)


def show(members: tuple[str, ...]) -> None:
    for member in members:
        save(contact_sheet(SHEETS[member]()), FOLDER / f"{member}.png")
        print(f"{member} -> {FOLDER / f'{member}.png'}", flush=True)


def _members(chosen: str) -> tuple[str, ...]:
    members = tuple(chosen.split(","))
    if unknown := set(members) - set(SHEETS):
        raise argparse.ArgumentTypeError(f"there is no {', '.join(sorted(unknown))}, but {', '.join(SHEETS)}")
    return members


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=_members, default=tuple(SHEETS), help=f"some of {','.join(SHEETS)}")
    show(parser.parse_args().members)
