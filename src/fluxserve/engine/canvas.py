"""The canvas of a fill: a picture, and a mask that says what of it is to be drawn.

It is needed twice, small where the drawing is prepared and whole where the drawing is pasted back, and made anew each
time: between the two a worker may draw another picture. No torch here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fluxserve.domain.generation import Inpaint, Outpaint
from fluxserve.engine.png import Pixels, decode_png

GRAY = 128  # what stands where nothing is known; between black and white it misleads least
FEATHER = 1 / 64  # of the shorter side: how far the drawing is drawn towards the picture at the mask's edge


@dataclass(frozen=True, slots=True)
class Canvas:
    """`picture` is (height, width, 3) bytes, gray where `mask`, (height, width), is True: there it is to be drawn."""

    picture: Pixels
    mask: NDArray[np.bool_]


def canvas_of(kind: Inpaint | Outpaint, images: Mapping[str, bytes]) -> Canvas:
    """The canvas in the picture's own pixels."""
    picture = decode_png(images[kind.image])
    match kind:
        case Inpaint():
            return _masked(picture, decode_png(images[kind.mask])[..., 0] >= GRAY)
        case Outpaint():
            borders = ((kind.top, kind.bottom), (kind.left, kind.right))
            mask = np.pad(np.zeros(picture.shape[:2], bool), borders, constant_values=True)
            return _masked(np.pad(picture, (*borders, (0, 0))), mask)


def reduced(canvas: Canvas, width: int, height: int) -> Canvas:
    """The canvas at another size. A pixel with anything to be drawn in it is to be drawn."""
    picture = Image.fromarray(canvas.picture).resize((width, height), Image.Resampling.LANCZOS)
    share = Image.fromarray(canvas.mask).convert("L").resize((width, height), Image.Resampling.BOX)
    return _masked(np.array(picture), np.asarray(share) > 0)


def paste_back(drawn: Pixels, canvas: Canvas) -> Pixels:
    """`drawn` where the mask is True, the very picture elsewhere, and no seam between them.

    At its edge the drawing takes on the difference that it has there to the picture, and less of it further in: the
    membrane of Pérez et al., "Poisson Image Editing" (2003), made by normalized convolution (Knutsson & Westin, 1993)
    instead of by solving for it. The masked part of the picture itself is never looked at.
    """
    pasted = np.where(canvas.mask[..., None], drawn, canvas.picture)
    reach = max(2, round(min(canvas.mask.shape) * FEATHER))
    part = _around(canvas.mask, 3 * reach)
    known = (~canvas.mask[part]).astype(np.float32)
    difference = (canvas.picture[part].astype(np.float32) - drawn[part]) * known[..., None]
    share = cv2.GaussianBlur(known, (0, 0), reach)
    spread = cv2.GaussianBlur(difference, (0, 0), reach) / np.maximum(share, 1e-3)[..., None]
    # Half of what a straight edge sees is known: there the whole difference counts.
    moved = drawn[part] + spread * np.minimum(1, 2 * share)[..., None]
    levels = np.rint(moved).clip(0, 255).astype(np.uint8)
    pasted[part] = np.where(canvas.mask[part][..., None], levels, pasted[part])
    return pasted


def _masked(picture: Pixels, mask: NDArray[np.bool_]) -> Canvas:
    picture[mask] = GRAY
    return Canvas(picture, mask)


def _around(mask: NDArray[np.bool_], margin: int) -> tuple[slice, slice]:
    """The box about everything that is True, `margin` wider on all sides."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (
        slice(max(0, rows[0] - margin), rows[-1] + margin + 1),
        slice(max(0, columns[0] - margin), columns[-1] + margin + 1),
    )
