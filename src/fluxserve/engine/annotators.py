"""Annotators: from a picture to the map that a control network follows."""

import cv2
import numpy as np
from PIL import Image

from fluxserve.domain.generation import ControlType
from fluxserve.engine.png import Pixels, decode_png

CANNY_LOW, CANNY_HIGH = 100, 200  # of the gradient: usual for control networks


def annotate(control: ControlType, png: bytes, size: tuple[int, int]) -> Pixels:
    """The map of a PNG file at `size` (width, height), (height, width, 3)."""
    pixels = np.asarray(Image.fromarray(decode_png(png)).resize(size, Image.Resampling.LANCZOS))
    match control:
        case "canny":
            return canny(pixels)


def canny(pixels: Pixels) -> Pixels:
    """White lines on black where the picture has edges (Canny, 1986)."""
    edges = cv2.Canny(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), CANNY_LOW, CANNY_HIGH)
    return np.repeat(edges[..., None], 3, axis=2).astype(np.uint8)
