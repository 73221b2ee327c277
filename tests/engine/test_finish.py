from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from fluxserve.domain.generation import Generation, ImageFormat
from fluxserve.engine.finish import Drawn, finish, resample

PIXELS = np.random.default_rng(0).integers(0, 256, (192, 352, 3), np.uint8)
DRAWN = Drawn(lambda: PIXELS, seed=5)


@pytest.mark.parametrize("size", [(1024, 512), (64, 64), (353, 191), (352, 192)])
@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
def test_the_file_has_exactly_the_asked_size_and_format(
    circle: Generation, size: tuple[int, int], image_format: ImageFormat
) -> None:
    width, height = size
    picture = finish(DRAWN, replace(circle, width=width, height=height, format=image_format), {})
    assert (picture.width, picture.height, picture.seed) == (width, height, 5)
    with Image.open(BytesIO(picture.data)) as image:
        image.load()
        assert image.size == size
        assert image.format == image_format.upper()


def test_a_png_drawn_at_the_asked_size_has_the_very_pixels(circle: Generation) -> None:
    picture = finish(DRAWN, replace(circle, width=352, height=192), {})
    with Image.open(BytesIO(picture.data)) as image:
        assert np.array_equal(np.asarray(image), DRAWN.pixels)


def test_resampling_keeps_a_flat_colour() -> None:
    flat = np.full((64, 64, 3), (10, 200, 30), np.uint8)
    assert np.array_equal(resample(flat, 100, 37), np.broadcast_to(flat[:1, :1], (37, 100, 3)))
