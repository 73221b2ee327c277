import zlib
from io import BytesIO

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from fluxserve.engine.png import Pixels, encode_png

sides = st.integers(1, 40)
pictures = st.tuples(sides, sides).flatmap(lambda size: arrays(np.uint8, (*size, 3)))


@given(pictures)
def test_pillow_reads_the_very_pixels(pixels: Pixels) -> None:
    with Image.open(BytesIO(encode_png(pixels))) as image:
        assert image.format == "PNG"
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image), pixels)


@given(pictures)
def test_a_view_that_is_not_contiguous_is_as_good(pixels: Pixels) -> None:
    turned = pixels.transpose(1, 0, 2)
    assert encode_png(turned) == encode_png(turned.copy())


def test_flat_areas_take_next_to_no_room() -> None:
    assert len(encode_png(np.full((512, 512, 3), 77, np.uint8))) < 8_000


def test_checksums_hold() -> None:
    data = encode_png(np.zeros((3, 5, 3), np.uint8))
    position, names = 8, []
    while position < len(data):
        size = int.from_bytes(data[position : position + 4])
        checked = data[position + 4 : position + 8 + size]
        assert int.from_bytes(data[position + 8 + size : position + 12 + size]) == zlib.crc32(checked)
        names.append(checked[:4])
        position += 12 + size
    assert names == [b"IHDR", b"IDAT", b"IEND"]
