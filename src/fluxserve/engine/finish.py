"""Finish: pixels to the file the caller asked for. No torch here: it runs beside the drawing of the next picture."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image

from fluxserve.domain.generation import Generation, ImageFormat, Inpaint, Outpaint
from fluxserve.domain.job import Picture
from fluxserve.engine.canvas import canvas_of, paste_back
from fluxserve.engine.png import Pixels, encode_png


@dataclass(frozen=True, slots=True)
class Drawn:
    """One picture as it was drawn, or a control's map, at the model's drawing size. `arrive` waits for its pixels."""

    arrive: Callable[[], Pixels]
    seed: int
    is_map: bool = False

    @property
    def pixels(self) -> Pixels:
        return self.arrive()


def finish(drawn: Drawn, generation: Generation, images: Mapping[str, bytes]) -> Picture:
    """The picture at exactly the asked size, in the asked format. What a fill was not to draw is as it was."""
    width, height = generation.width, generation.height
    pixels = resample(drawn.pixels, width, height)
    if isinstance(generation.kind, Inpaint | Outpaint) and not drawn.is_map:
        pixels = paste_back(pixels, canvas_of(generation.kind, images))
    return Picture(encode(pixels, generation.format, generation.quality), width, height, drawn.seed)


def resample(pixels: Pixels, width: int, height: int) -> Pixels:
    """Untouched where it has the size already."""
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def encode(pixels: Pixels, image_format: ImageFormat, quality: int) -> bytes:
    if image_format == "png":
        return encode_png(pixels)
    file = BytesIO()
    Image.fromarray(pixels).save(file, image_format, quality=quality)
    return file.getvalue()
