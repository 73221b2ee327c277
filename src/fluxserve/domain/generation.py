"""What a caller asks for.

A `Generation` is complete: every default is filled in and every limit checked before one is made, so whoever holds
one can draw it without asking anything else, today or after a crash. It crosses the queue and the worker's pipe as
JSON (`to_json`, `from_json`).
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

RANDOM_SEED = -1
LARGEST_SEED = 2**63 - 1

ImageFormat = Literal["png", "jpeg", "webp"]


@dataclass(frozen=True, slots=True)
class TextToImage:
    """A picture from words alone."""

    prompt: str
    negative_prompt: str = ""


@dataclass(frozen=True, slots=True)
class ImageToImage:
    """A picture drawn over another. `image` is the other's key on the shelf.

    `denoising_strength`, over 0 up to 1, is how much of the noise schedule is gone through: 1 leaves nothing of it.
    """

    prompt: str
    image: str
    denoising_strength: float
    negative_prompt: str = ""


Kind = TextToImage | ImageToImage
KINDS: dict[str, type[Kind]] = {"text_to_image": TextToImage, "image_to_image": ImageToImage}


def images_of(kind: Kind) -> tuple[str, ...]:
    """The keys of the callers' pictures that it is drawn from."""
    match kind:
        case TextToImage():
            return ()
        case ImageToImage(image=image):
            return (image,)


@dataclass(frozen=True, slots=True)
class Generation:
    """One request for `count` pictures of one kind by one catalogue model.

    `width` and `height` are pixels of the finished picture. `guidance_scale` is None where the model has none.
    Picture number i is drawn with `seed` + i.
    """

    model: str
    kind: Kind
    width: int
    height: int
    steps: int
    guidance_scale: float | None
    seed: int
    count: int = 1
    format: ImageFormat = "png"

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of each picture, wrapped so that every one is a legal seed."""
        return tuple((self.seed + number) % (LARGEST_SEED + 1) for number in range(self.count))


def to_json(generation: Generation) -> dict[str, Any]:
    """As plain JSON values; `from_json` gives it back equal."""
    kind = next(name for name, kind in KINDS.items() if isinstance(generation.kind, kind))
    return {**asdict(generation), "kind": {"name": kind, **asdict(generation.kind)}}


def from_json(values: dict[str, Any]) -> Generation:
    fields = dict(values["kind"])
    kind = KINDS[fields.pop("name")]
    return Generation(**{**values, "kind": kind(**fields)})
