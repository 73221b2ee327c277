"""Callers' pictures are opened in a process of their own: plain ones come out, all else is refused with a reason."""

import random
from collections.abc import AsyncIterator
from io import BytesIO

import pytest
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from fluxserve.storage.opener import Fit, Opened, Opener, OpenError
from tests.storage import bombs

pytestmark = pytest.mark.anyio


@pytest.fixture
async def opener() -> AsyncIterator[Opener]:
    opener = Opener()
    yield opener
    await opener.stop()


def encoded(image: Image.Image, format: str, **options: object) -> bytes:  # noqa: A002
    file = BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def pixels(opened: Opened) -> Image.Image:
    image = Image.open(BytesIO(opened.png), formats=["PNG"])
    assert image.size == (opened.width, opened.height)
    assert image.mode == ("RGBA" if opened.has_alpha else "RGB")
    return image


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
async def test_the_three_formats_are_opened(opener: Opener, format: str) -> None:  # noqa: A002
    opened = await opener.open(encoded(Image.new("RGB", (64, 48), "red"), format))
    assert (opened.width, opened.height, opened.has_alpha) == (64, 48, False)
    red, green, blue = pixels(opened).getpixel((30, 20))  # type: ignore[misc]
    assert red > 245
    assert max(green, blue) < 10


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 128, (128, 128, 128)),
        ("1", 1, (255, 255, 255)),
        ("P", 0, (0, 0, 0)),
        ("I;16", 65535, (255, 255, 255)),
        ("I;16", 32896, (128, 128, 128)),
        ("LA", (200, 255), (200, 200, 200)),
        ("RGBA", (1, 2, 3, 255), (1, 2, 3)),
        ("RGBA", (1, 2, 3, 100), (1, 2, 3, 100)),
    ],
)
async def test_every_kind_of_pixel_becomes_rgb_or_rgba(
    opener: Opener, mode: str, colour: object, expected: tuple[int, ...]
) -> None:
    opened = await opener.open(encoded(Image.new(mode, (32, 32), colour), "PNG"))  # type: ignore[arg-type]
    assert pixels(opened).getpixel((5, 5)) == expected


async def test_a_picture_is_turned_upright_and_its_metadata_dropped(opener: Opener) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    exif[0x010E] = "a secret place"
    image = Image.new("RGB", (64, 32))
    image.paste("white", (0, 0, 32, 32))
    opened = await opener.open(encoded(image, "JPEG", exif=exif))
    upright = pixels(opened)
    assert upright.size == (32, 64)
    assert upright.getpixel((16, 5)) == (255, 255, 255)
    assert b"secret" not in opened.png
    assert not upright.info


def masked_photo() -> tuple[Image.Image, Image.Image]:
    """A picture with a white disc painted on it, and the disc."""
    photo = Image.merge("RGB", [Image.radial_gradient("L").point(lambda value: value * 3 // 4)] * 3)
    disc = Image.new("L", photo.size)
    ImageDraw.Draw(disc).ellipse((60, 80, 180, 200), fill=255)
    photo.paste("white", mask=disc)
    return photo, disc


@pytest.mark.parametrize(("format", "options"), [("PNG", {}), ("JPEG", {"quality": 60}), ("WEBP", {"quality": 60})])
async def test_white_paint_is_the_mask_whatever_a_format_made_of_its_edge(
    opener: Opener,
    format: str,  # noqa: A002
    options: dict[str, object],
) -> None:
    photo, disc = masked_photo()
    opened = await opener.open(encoded(photo, format, **options), mask="own")
    mask = Image.open(BytesIO(opened.mask), formats=["PNG"])
    assert mask.size == photo.size
    assert set(mask.get_flattened_data()) == {0, 255}
    wrong = ImageChops.difference(mask, disc)
    assert sum(wrong.histogram()[1:]) <= 0.02 * photo.width * photo.height
    assert wrong.filter(ImageFilter.MinFilter(5)).getbbox() is None  # no more than the edge


async def test_what_is_transparent_is_in_the_mask_too(opener: Opener) -> None:
    image = Image.new("RGBA", (64, 32), "red")
    image.paste((0, 0, 0, 0), (0, 0, 32, 32))
    opened = await opener.open(encoded(image, "PNG"), mask="own")
    assert Image.open(BytesIO(opened.mask)).getbbox() == (0, 0, 32, 32)


async def test_a_picture_without_white_has_no_mask_and_is_refused(opener: Opener) -> None:
    gray = encoded(Image.new("RGB", (64, 32), (235, 235, 235)), "PNG")
    with pytest.raises(OpenError, match="nothing in it is white or transparent"):
        await opener.open(gray, mask="own")
    assert (await opener.open(gray)).mask == b""


async def test_a_mask_of_its_own_is_white_where_it_is_light_and_as_large_as_the_picture(opener: Opener) -> None:
    mask = Image.new("L", (32, 16))
    mask.paste(255, (16, 0, 32, 16))
    opened = await opener.open(
        encoded(Image.new("RGB", (64, 32), "red"), "PNG"), encoded(mask.convert("RGB"), "JPEG"), mask="white"
    )
    painted = Image.open(BytesIO(opened.mask))
    assert painted.size == (64, 32)
    assert painted.getbbox() == (32, 0, 64, 32)


async def test_a_mask_of_its_own_may_be_the_transparent_part_of_it(opener: Opener) -> None:
    mask = Image.new("RGBA", (64, 32), "black")
    mask.paste((0, 0, 0, 0), (0, 0, 20, 32))
    photo = encoded(Image.new("RGB", (64, 32), "red"), "PNG")
    opened = await opener.open(photo, encoded(mask, "PNG"), mask="clear")
    assert Image.open(BytesIO(opened.mask)).getbbox() == (0, 0, 20, 32)

    with pytest.raises(OpenError, match="the mask has 32x32 pixels and the picture 64x32"):
        await opener.open(photo, encoded(mask.resize((32, 32)), "PNG"), mask="clear")
    for how in ("clear", "white"):
        with pytest.raises(OpenError, match="nothing") as refused:
            await opener.open(photo, encoded(Image.new("RGB", (64, 32)), "PNG"), mask=how)
        assert refused.value.file == 1
    hazy = encoded(Image.new("RGBA", (64, 32), (0, 0, 0, 200)), "PNG")
    for opaque in (photo, hazy):
        with pytest.raises(OpenError, match="nothing in it is transparent, and there is no mask") as refused:
            await opener.open(opaque, mask="alpha")
        assert refused.value.file == 0


async def test_of_a_picture_and_its_mask_the_one_that_is_none_is_told(opener: Opener) -> None:
    photo, broken = encoded(Image.new("RGB", (64, 32), "red"), "PNG"), b"not a picture"
    for files, to_blame in (((broken, photo), 0), ((photo, broken), 1)):
        with pytest.raises(OpenError, match="it is no PNG, JPEG or WebP picture") as refused:
            await opener.open(*files, mask="white")
        assert refused.value.file == to_blame


async def test_a_thin_line_in_a_mask_is_still_one_in_a_small_picture(opener: Opener) -> None:
    line = Image.new("L", (4000, 4000))
    line.paste(255, (1001, 0, 1002, 4000))
    photo = encoded(Image.new("RGB", line.size, "red"), "JPEG")
    opened = await opener.open(photo, encoded(line, "PNG"), mask="white", fit=Fit(32, 1440, 512 * 512))
    assert Image.open(BytesIO(opened.mask)).getbbox() == (128, 0, 129, 512)


async def test_several_pictures_become_one_side_by_side(opener: Opener) -> None:
    opened = await opener.open(
        *(
            encoded(Image.new("RGB", size, colour), "PNG")
            for size, colour in (((40, 40), "red"), ((40, 80), "lime"), ((80, 40), "blue"))
        )
    )
    whole = pixels(opened)
    assert whole.size == (40 + 20 + 80, 40)
    assert [whole.getpixel((x, 20)) for x in (5, 50, 100)] == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


@pytest.mark.parametrize(
    ("size", "fit", "expected"),
    [
        ((500, 300), Fit(32, 1440), (512, 288)),
        ((2000, 1000), Fit(32, 1440), (1440, 704)),
        ((100, 50), Fit(32, 1440, pixels=250_000), (704, 352)),
        ((20, 2000), Fit(32, 1440), (32, 1440)),
    ],
)
async def test_a_picture_and_its_mask_are_brought_to_a_size(
    opener: Opener, size: tuple[int, int], fit: Fit, expected: tuple[int, int]
) -> None:
    photo = encoded(Image.new("RGB", size, "red"), "PNG")
    opened = await opener.open(photo, encoded(Image.new("L", size, 255), "PNG"), mask="white", fit=fit)
    assert (opened.width, opened.height) == expected == Image.open(BytesIO(opened.mask)).size == pixels(opened).size


@pytest.mark.parametrize("name", bombs.BOMBS)
async def test_a_bomb_is_refused_with_next_to_no_memory(name: str) -> None:
    refusal = await bombs.measure(name, times=3)
    assert refusal.most_bytes < bombs.MOST_BYTES
    assert refusal.why.startswith("it ")


REFUSED = {
    "nothing": b"",
    "text": b"not a picture at all",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='http://169.254.169.254/'/></svg>",
    "GIF": encoded(Image.new("P", (32, 32)), "GIF"),
    "BMP": encoded(Image.new("RGB", (32, 32)), "BMP"),
    "TIFF": encoded(Image.new("RGB", (32, 32)), "TIFF"),
    "PDF": b"%PDF-1.7\n%%EOF",
    "an animated WebP": encoded(
        Image.new("RGB", (32, 32)), "WEBP", save_all=True, append_images=[Image.new("RGB", (32, 32), "red")]
    ),
    "an animated PNG": encoded(
        Image.new("RGB", (32, 32)), "PNG", save_all=True, append_images=[Image.new("RGB", (32, 32), "red")]
    ),
    "15 pixels": encoded(Image.new("RGB", (15, 64)), "PNG"),
    "half a JPEG": encoded(Image.effect_noise((64, 64), 50), "JPEG")[:900],
    "half a PNG": encoded(Image.effect_noise((64, 64), 50), "PNG")[:900],
    "a PNG without a picture": bombs.png(64, 64),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_no_whole_picture_is_refused_with_a_reason(opener: Opener, name: str) -> None:
    with pytest.raises(OpenError, match=r"^it (is|has|can't|takes) "):
        await opener.open(REFUSED[name])


async def test_the_next_picture_is_opened_after_every_refusal(opener: Opener) -> None:
    for data in REFUSED.values():
        with pytest.raises(OpenError):
            await opener.open(data)
    assert (await opener.open(encoded(Image.new("RGB", (32, 32)), "PNG"))).width == 32


async def test_a_process_that_dies_is_replaced(opener: Opener) -> None:
    good = encoded(Image.new("RGB", (32, 32)), "PNG")
    await opener.open(good)
    process = opener._places._queue[-1]  # type: ignore[attr-defined]
    process.kill()
    await process.wait()
    for _ in range(4):
        assert (await opener.open(good)).height == 32


async def test_a_picture_that_takes_too_long_is_given_up_and_its_process_with_it() -> None:
    opener = Opener(seconds=0.001)
    with pytest.raises(OpenError, match=r"within 0\.001 s"):
        await opener.open(encoded(Image.new("RGB", (2000, 2000)), "PNG"))
    await opener.stop()


async def test_damaged_pictures_do_no_harm(opener: Opener) -> None:
    chance = random.Random(5)
    good = [encoded(Image.effect_noise((40, 40), 60), kind) for kind in ("PNG", "JPEG", "WEBP")]
    for _ in range(300):
        data = bytearray(chance.choice(good))
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            pixels(await opener.open(bytes(data)))
        except OpenError:
            continue
