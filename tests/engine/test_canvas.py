"""What a fill is drawn on, and how what was drawn comes back into the picture."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from fluxserve.domain.generation import Inpaint, Outpaint
from fluxserve.engine.canvas import GRAY, Canvas, canvas_of, paste_back, reduced
from fluxserve.engine.png import Pixels

RNG = np.random.default_rng(3)
PHOTO = RNG.integers(0, 256, (60, 90, 3), np.uint8)
SPOT = np.zeros((60, 90), np.uint8)
SPOT[20:50, 30:70] = 255


def png(pixels: Pixels) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


IMAGES = {"photo": png(PHOTO), "mask": png(SPOT)}


@pytest.fixture
def canvas() -> Canvas:
    return canvas_of(Inpaint("a cat", "photo", "mask"), IMAGES)


def test_what_is_white_in_the_mask_is_to_be_drawn_and_gray(canvas: Canvas) -> None:
    assert np.array_equal(canvas.mask, SPOT == 255)
    assert (canvas.picture[canvas.mask] == GRAY).all()
    assert np.array_equal(canvas.picture[~canvas.mask], PHOTO[~canvas.mask])


def test_an_outpaint_grows_by_so_many_pixels_at_each_edge() -> None:
    canvas = canvas_of(Outpaint("a cat", "photo", left=5, right=7, top=11, bottom=0), IMAGES)
    assert canvas.picture.shape == (71, 102, 3)
    assert np.array_equal(canvas.picture[11:, 5:95], PHOTO)
    assert not canvas.mask[11:, 5:95].any()
    assert canvas.mask.sum() == 71 * 102 - 60 * 90


def test_reduced_it_keeps_the_smallest_thing_to_be_drawn() -> None:
    mask = np.zeros((64, 64), bool)
    mask[33, 40] = True
    small = reduced(Canvas(np.zeros((64, 64, 3), np.uint8), mask), 16, 16)
    assert np.argwhere(small.mask).tolist() == [[8, 10]]


def test_nothing_of_what_was_white_reaches_the_known_pixels_beside_it() -> None:
    white = np.full((64, 64, 3), 255, np.uint8)
    white[:, :32] = GRAY
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 32:] = 255
    small = reduced(canvas_of(Inpaint("a cat", "white", "mask"), {"white": png(white), "mask": png(mask)}), 16, 16)
    assert (small.picture == GRAY).all()


def test_outside_the_mask_every_pixel_is_the_pictures_own(canvas: Canvas) -> None:
    drawn = RNG.integers(0, 256, PHOTO.shape, np.uint8)
    pasted = paste_back(drawn, canvas)
    assert np.array_equal(pasted[~canvas.mask], PHOTO[~canvas.mask])


def test_a_drawing_like_the_picture_is_not_changed() -> None:
    mask = SPOT == 255
    picture = np.full((60, 90, 3), 100, np.uint8)
    drawn = picture.copy()
    drawn[30:40, 40:60] = (200, 30, 60)
    assert np.array_equal(paste_back(drawn, Canvas(picture, mask)), drawn)


def test_a_drawing_in_another_tone_meets_the_picture_without_a_step() -> None:
    mask = np.zeros((640, 640), bool)
    mask[160:480, 160:480] = True
    picture, drawn = np.full((640, 640, 3), 100, np.uint8), np.full((640, 640, 3), 130, np.uint8)
    row = paste_back(drawn, Canvas(picture, mask))[320, :, 0].astype(int)
    assert np.abs(np.diff(row)).max() <= 3  # of the 30 that lay between them
    assert row[320] == 130


@pytest.mark.parametrize("mask", [SPOT == 255, np.ones((60, 90), bool), np.eye(60, 90, dtype=bool)])
def test_any_mask_can_be_pasted(mask: np.ndarray[tuple[int, int], np.dtype[np.bool_]]) -> None:
    drawn = RNG.integers(0, 256, PHOTO.shape, np.uint8)
    pasted = paste_back(drawn, Canvas(PHOTO, mask))
    assert pasted.dtype == np.uint8
    assert np.array_equal(pasted[~mask], PHOTO[~mask])
