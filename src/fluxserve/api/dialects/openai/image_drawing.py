"""From a request for pictures to what is submitted: a generation, what it is sold as, and what is answered of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fluxserve.api.dialects.openai.image_requests import OWN_MODELS, SIZES, Asked
from fluxserve.api.dialects.openai.usage import usage
from fluxserve.api.inputs import Inputs
from fluxserve.api.submitting import seed_of
from fluxserve.domain.catalog import MODELS, USUAL, Means, Quality, Usual, product_of
from fluxserve.domain.errors import InvalidInput
from fluxserve.domain.generation import Edit, Generation, Inpaint, Kind, TextToImage
from fluxserve.storage import Fit

LONGEST_PAINTED = 1536
GRID = 16  # pixels, of the sides of a picture that is painted in
EDITED_BY = "flux1-dev-advanced"  # what PiAPI asks for, too, when a picture is to be changed or painted in
BEST_QUALITY = 100


@dataclass(frozen=True, slots=True)
class Files:
    """The pictures of an edit: a mask is for the first, and then the only one."""

    images: tuple[bytes, ...]
    mask: bytes | None = None


@dataclass(frozen=True, slots=True)
class Drawing:
    """`answer` is what the answer says beside the pictures."""

    generation: Generation
    product: str
    answer: dict[str, Any]


async def to_drawing(
    asked: Asked, files: Files | None, account_id: str, inputs: Inputs, qualities: Mapping[Quality, Means]
) -> Drawing:
    """Raises `InvalidInput`, and then leaves nothing on the shelf."""
    size, seen = asked.drawn_size, list[tuple[int, int]]()
    if files is None:
        kind: Kind = TextToImage(asked.prompt)
        size = size or SIZES[0]
    elif files.mask is not None:
        kind, size = await _painted(asked, files, account_id, inputs)
        seen = [size, size]
    else:
        picture = await inputs.take(account_id, "image", *files.images)
        seen = [(picture.width, picture.height)]
        kind, size = Edit(asked.prompt, picture.key), size or nearest_size(*seen[0])
    generation = _generation(asked, kind, size, qualities)
    answer = {
        "background": "opaque",
        "output_format": generation.format,
        "quality": asked.drawn_quality,
        "size": f"{size[0]}x{size[1]}",
        "usage": usage(asked.prompt, seen, asked.drawn_quality, size, generation.count),
    }
    product = product_of(asked.drawn_model, (asked.drawn_quality, size[0] != size[1]))
    return Drawing(generation, product, answer)


async def _painted(asked: Asked, files: Files, account_id: str, inputs: Inputs) -> tuple[Kind, tuple[int, int]]:
    if len(files.images) > 1:
        raise InvalidInput("mask", "a picture", f"allowed is one with one image, and {len(files.images)} came")
    size = asked.drawn_size
    pixels = size[0] * size[1] if size else None
    picture, mask = await inputs.take_masked(
        account_id,
        "image",
        files.images[0],
        files.mask or b"",
        mask="clear",
        fit=Fit(GRID, LONGEST_PAINTED, pixels),
    )
    return Inpaint(asked.prompt, picture.key, mask.key), (picture.width, picture.height)


def _generation(asked: Asked, kind: Kind, size: tuple[int, int], qualities: Mapping[Quality, Means]) -> Generation:
    name = asked.drawn_model
    means = qualities[asked.drawn_quality] if name in OWN_MODELS else Means(name, MODELS[name].default_steps)
    usual = Usual()
    if not isinstance(kind, TextToImage):
        usual = USUAL["fill" if isinstance(kind, Inpaint) else "edit"]
        is_of_its_kind = MODELS[means.model].member == MODELS[EDITED_BY].member  # else its steps are too few
        means = Means(EDITED_BY, means.steps if is_of_its_kind else MODELS[EDITED_BY].default_steps)
    return Generation(
        model=means.model,
        kind=kind,
        width=size[0],
        height=size[1],
        steps=means.steps,
        guidance_scale=MODELS[means.model].guidance(None, usual.guidance_scale),
        seed=seed_of(None),
        count=asked.n or 1,
        format=asked.output_format or "png",
        quality=BEST_QUALITY if asked.output_compression is None else asked.output_compression,
        previews=asked.partial_images or 0,
    )


def nearest_size(width: int, height: int) -> tuple[int, int]:
    """Of the sizes that "auto" chooses from, the one nearest in shape."""
    return min(SIZES, key=lambda size: abs(size[0] / size[1] - width / height))
