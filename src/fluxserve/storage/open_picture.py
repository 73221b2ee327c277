"""The program that opens callers' pictures: bytes in through standard input, a plain PNG out through standard output.

Run by `fluxserve.storage.opener` as a process of its own, with little memory and no way back: decoders of foreign bytes
are where faults are found. It imports nothing of fluxserve.

Both ways a message is a big-endian 32-bit length and so many bytes. A question is a JSON object, {"files", "mask",
"fit"}, and so many files. An answer is three: a JSON object, either {"width", "height", "has_alpha"} or {"refused",
"file"}, the number of the file that is to blame; the PNG, empty if refused; and its mask, empty unless that was asked
for.

`mask` is null or where the mask comes from: "own", where the picture is white or transparent; "alpha", where it is
transparent; "white", where a second picture is; "clear", where a second one is transparent. Without one, several files
become one picture, side by side. `fit` is null or the size to bring it to: {"multiple", "longest", "pixels"}.
"""

import functools
import json
import resource
import struct
import sys
import warnings
from io import BytesIO
from typing import Any, BinaryIO

from PIL import Image, ImageChops, ImageFilter, ImageOps

FORMATS = ("PNG", "JPEG", "WEBP")
MOST_PIXELS = 16_777_216
LONGEST_SIDE = 8192
SHORTEST_SIDE = 16
MOST_MEMORY = 1 << 30  # bytes of address space
LENGTH = struct.Struct(">I")
PAPER = "white"  # between pictures of different heights
WHITE = 250  # of each channel, at least, where a picture was painted over with white
NEARLY_WHITE = 230  # what JPEG makes of white where it meets a colour
BLOCK = 8  # pixels: how far from white that can be
OPAQUE = 128  # of the alpha channel, at least, where a picture is not to be painted
LIGHT = 128  # of a mask's grey, at least, where the picture under it is to be painted
MASK = 1  # the number of its file
SIXTEEN_BITS = ("I", "I;16", "I;16L", "I;16B")


class RefusedError(Exception):
    """It is not opened; the message says why, in words for the caller, and `file` which of the files is to blame."""

    def __init__(self, message: str, file: int = 0) -> None:
        super().__init__(message)
        self.file = file


def opened(data: bytes) -> Image.Image:
    """The picture as RGB or, if any of it is transparent, RGBA: turned as its EXIF says, and without it."""
    try:
        image: Image.Image = Image.open(BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise RefusedError(f"it has more than {MOST_PIXELS} pixels") from None
    except Exception:
        raise RefusedError("it is no PNG, JPEG or WebP picture") from None
    width, height = image.size
    if max(width, height) > LONGEST_SIDE or width * height > MOST_PIXELS:
        raise RefusedError(
            f"it has {width}x{height} pixels; allowed are {MOST_PIXELS}, and {LONGEST_SIDE} along a side"
        )
    if min(width, height) < SHORTEST_SIDE:
        raise RefusedError(f"it has {width}x{height} pixels; each side must have at least {SHORTEST_SIDE}")
    if getattr(image, "n_frames", 1) > 1:
        raise RefusedError("it is an animation; one picture is needed")
    try:
        image.load()
        return _plain(ImageOps.exif_transpose(image))
    except MemoryError:
        raise RefusedError("it takes more memory than a picture may") from None
    except Exception as error:
        raise RefusedError(f"it is damaged: {error}") from None


def _plain(image: Image.Image) -> Image.Image:
    if image.mode in SIXTEEN_BITS:
        image = image.point(lambda value: value / 257).convert("L")  # 65535 -> 255; a conversion alone would cut it off
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    has_alpha = image.getchannel("A").getextrema() != (255, 255)
    return image if has_alpha else image.convert("RGB")


def mask_of(image: Image.Image) -> Image.Image:
    """White where the picture is painted over with white or is transparent, black elsewhere."""
    darkest = functools.reduce(ImageChops.darker, image.convert("RGB").split())
    white = darkest.point(lambda value: 255 if value >= WHITE else 0)
    around = white.filter(ImageFilter.BoxBlur(BLOCK)).point(lambda value: 255 if value else 0)
    mask = ImageChops.darker(around, darkest.point(lambda value: 255 if value >= NEARLY_WHITE else 0))
    if image.mode == "RGBA":
        mask = ImageChops.lighter(mask, image.getchannel("A").point(lambda value: 0 if value >= OPAQUE else 255))
    if not mask.getbbox():
        raise RefusedError("nothing in it is white or transparent, so there is nothing to paint")
    return mask


def alpha_of(image: Image.Image) -> Image.Image:
    """White where the picture is transparent, black elsewhere."""
    clear = _clear(image)
    if clear is None:
        raise RefusedError("nothing in it is transparent, and there is no mask, so there is nothing to paint")
    return clear


def _clear(image: Image.Image) -> Image.Image | None:
    """White where it is transparent; None if it is so nowhere."""
    if image.mode != "RGBA":
        return None
    clear = image.getchannel("A").point(lambda value: 0 if value >= OPAQUE else 255)
    return clear if clear.getbbox() else None


def white_of(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """White where `mask` is light, black where it is dark, and of that size."""
    light = mask.convert("L").resize(size, Image.Resampling.BILINEAR).point(lambda value: 255 if value >= LIGHT else 0)
    if not light.getbbox():
        raise RefusedError("nothing in it is white, so there is nothing to paint", MASK)
    return light


def clear_of(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """White where `mask`, of that size, is transparent."""
    if mask.size != size:
        raise RefusedError(
            f"the mask has {mask.width}x{mask.height} pixels and the picture {size[0]}x{size[1]}: they must be equal",
            MASK,
        )
    clear = _clear(mask)
    if clear is None:
        raise RefusedError("nothing in it is transparent, so there is nothing to paint", MASK)
    return clear


def side_by_side(images: list[Image.Image]) -> Image.Image:
    """One picture of several, all as high as the first, from left to right; smaller if it were too large."""
    height = images[0].height
    widths = [max(1, round(image.width * height / image.height)) for image in images]
    scale = min(1.0, LONGEST_SIDE / sum(widths), (MOST_PIXELS / (sum(widths) * height)) ** 0.5)
    sizes = [(max(1, int(width * scale)), max(1, int(height * scale))) for width in widths]
    whole = Image.new("RGB", (sum(width for width, _ in sizes), sizes[0][1]), PAPER)
    left = 0
    for image, size in zip(images, sizes, strict=True):
        part = image.resize(size, Image.Resampling.LANCZOS)
        whole.paste(part, (left, 0), part.getchannel("A") if part.mode == "RGBA" else None)
        left += size[0]
    return whole


def fitted(size: tuple[int, int], multiple: int, longest: int, pixels: int | None) -> tuple[int, int]:
    """The size of the same shape with at most `longest` along a side, about so many `pixels` if that is asked, and
    sides that are multiples."""
    width, height = size
    scale = (pixels / (width * height)) ** 0.5 if pixels else 1.0
    scale = min(scale, longest / max(width, height))
    most = longest // multiple * multiple
    return (
        min(most, max(multiple, round(width * scale / multiple) * multiple)),
        min(most, max(multiple, round(height * scale / multiple) * multiple)),
    )


def answer(wish: Any, files: list[bytes]) -> tuple[dict[str, object], bytes, bytes]:
    try:
        images = [_numbered(number, data) for number, data in enumerate(files)]
        image, mask = images[0], None
        match wish["mask"]:
            case "own":
                mask = mask_of(image)
            case "alpha":
                mask = alpha_of(image)
            case "white":
                mask = white_of(images[1], image.size)
            case "clear":
                mask = clear_of(images[1], image.size)
            case _ if len(images) > 1:
                image = side_by_side(images)
        if wish["fit"]:
            size = fitted(image.size, **wish["fit"])
            image = image.resize(size, Image.Resampling.LANCZOS)
            mask = mask and _reduced(mask, size)
    except RefusedError as error:
        return {"refused": str(error), "file": error.file}, b"", b""
    head: dict[str, object] = {"width": image.width, "height": image.height, "has_alpha": image.mode == "RGBA"}
    return head, _png(image), _png(mask) if mask else b""


def _numbered(number: int, data: bytes) -> Image.Image:
    try:
        return opened(data)
    except RefusedError as error:
        raise RefusedError(str(error), number) from None


def _reduced(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The mask at another size. A pixel with anything to be painted in it is to be painted: a thin line stays one."""
    share = mask.convert("F").resize(size, Image.Resampling.BOX)
    return share.point(lambda value: value * 1e6).convert("L").point(lambda value: 255 if value else 0)


def _png(image: Image.Image) -> bytes:
    file = BytesIO()
    image.info.clear()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def serve(incoming: BinaryIO, outgoing: BinaryIO) -> None:
    """Until `incoming` ends."""
    while length := incoming.read(LENGTH.size):
        wish = json.loads(incoming.read(*LENGTH.unpack(length)))
        files = [incoming.read(*LENGTH.unpack(incoming.read(LENGTH.size))) for _ in range(wish["files"])]
        head, *pictures = answer(wish, files)
        for part in (json.dumps(head).encode(), *pictures):
            outgoing.write(LENGTH.pack(len(part)))
            outgoing.write(part)
        outgoing.flush()


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # no file grows by its hand
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    Image.MAX_IMAGE_PIXELS = MOST_PIXELS
    warnings.simplefilter("error", Image.DecompressionBombWarning)  # else it is but a warning, up to twice the limit
    Image.preinit()
    Image.init()
    serve(sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
