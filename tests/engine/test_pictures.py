"""Callers' pictures become what the autoencoder expects."""

from io import BytesIO

import torch
from PIL import Image

from fluxserve.engine.pictures import picture_of


def png(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_black_is_minus_one_and_white_is_one() -> None:
    image = Image.new("RGB", (4, 2))
    image.putpixel((3, 0), (255, 255, 255))
    picture = picture_of(png(image), (4, 2))
    assert picture.shape == (1, 3, 2, 4)
    assert picture[0, :, 0, 3].tolist() == [1, 1, 1]
    assert picture.sum() == -18


def test_it_is_resampled_to_the_size_asked_for() -> None:
    assert picture_of(png(Image.new("RGB", (100, 50))), (64, 96)).shape == (1, 3, 96, 64)


def test_what_is_transparent_is_paper() -> None:
    picture = picture_of(png(Image.new("RGBA", (32, 32), (0, 0, 0, 0))), (32, 32))
    assert torch.equal(picture, torch.ones(1, 3, 32, 32))
