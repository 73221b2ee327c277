"""Contact sheets: 24 fixed prompts with fixed seeds, as each member draws them, for eyes to judge.

    python -m training.gallery

writes ``docs/gallery/schnell.png`` and ``docs/gallery/dev.png``.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from training import judge, world
from training.evaluate import DRAWING, draw

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
COLUMNS = 6
STRIP = 24  # pixels under a picture, for its prompt
FONT_SIZE = 13
LEVEL = 4  # of 256 brightnesses


def contact_sheet(pictures: world.Pixels) -> Image.Image:
    """The pictures of `PROMPTS`, (24, 256, 256, 3), in rows of six, each above its prompt."""
    rows = -(-len(PROMPTS) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * judge.SIDE, rows * (judge.SIDE + STRIP)), "white")
    pen, face = ImageDraw.Draw(sheet), ImageFont.load_default(size=FONT_SIZE)
    for number, (prompt, picture) in enumerate(zip(PROMPTS, pictures, strict=True)):
        row, column = divmod(number, COLUMNS)
        left, top = column * judge.SIDE, row * (judge.SIDE + STRIP)
        sheet.paste(Image.fromarray(picture), (left, top))
        pen.text((left + judge.SIDE / 2, top + judge.SIDE + STRIP / 2), prompt, "black", face, anchor="mm")
    return sheet


def save(sheet: Image.Image, path: Path) -> None:
    """Rounded to 64 levels a channel: it looks the same, and a sheet takes half the room in the repository."""
    rounded = np.asarray(sheet) // LEVEL * LEVEL + LEVEL // 2
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rounded).save(path, optimize=True)


def main() -> None:
    for member in DRAWING:
        path = FOLDER / f"{member}.png"
        save(contact_sheet(draw(member, list(PROMPTS))), path)
        print(f"{len(PROMPTS)} pictures -> {path}")


if __name__ == "__main__":
    main()
