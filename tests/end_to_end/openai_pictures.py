"""Pictures as OpenAI's SDKs send and get them."""

import base64
from io import BytesIO

from PIL import Image, ImageDraw


def opened(b64_json: str | None) -> Image.Image:
    assert b64_json
    image = Image.open(BytesIO(base64.b64decode(b64_json)))
    image.load()
    return image


def photo(size: tuple[int, int] = (256, 256)) -> BytesIO:
    """A red disc on blue."""
    image = Image.new("RGB", size, "blue")
    ImageDraw.Draw(image).ellipse((64, 64, 192, 192), fill="red")
    return named(image, "photo.png")


def hole() -> BytesIO:
    """A mask that is transparent in its middle, where the disc is."""
    image = Image.new("RGBA", (256, 256), "black")
    image.paste((0, 0, 0, 0), (64, 64, 192, 192))
    return named(image, "mask.png")


def named(image: Image.Image, name: str) -> BytesIO:
    file = BytesIO()
    image.save(file, "PNG")
    file.name, _ = name, file.seek(0)
    return file
