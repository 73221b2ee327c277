"""What a caller asks for.

A `Generation` is complete: every default is filled in and every limit checked before one is made, so whoever holds
one can draw it without asking anything else, today or after a crash. It crosses the queue and the worker's pipe as
JSON (`to_json`, `from_json`).
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

RANDOM_SEED = -1
LARGEST_SEED = 2**63 - 1
USUAL_QUALITY = 92

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


@dataclass(frozen=True, slots=True)
class Inpaint:
    """A part of a picture drawn anew. `image` and `mask` are keys on the shelf, of two pictures of one size.

    What is white in the mask is drawn; what is black stays as it is, to the last bit.
    """

    prompt: str
    image: str
    mask: str
    negative_prompt: str = ""


@dataclass(frozen=True, slots=True)
class Outpaint:
    """A picture continued beyond its edges, by so many pixels at each. What is there stays as it is, to the last bit.

    `image` is the picture's key on the shelf.
    """

    prompt: str
    image: str
    left: int
    right: int
    top: int
    bottom: int
    negative_prompt: str = ""


@dataclass(frozen=True, slots=True)
class Variation:
    """A picture of what another shows, drawn anew. `image` is the other's key on the shelf."""

    prompt: str
    image: str
    negative_prompt: str = ""


@dataclass(frozen=True, slots=True)
class Edit:
    """A picture changed as the prompt says: "make the background blue". `image` is its key on the shelf."""

    prompt: str
    image: str
    negative_prompt: str = ""


Kind = TextToImage | ImageToImage | Inpaint | Outpaint | Variation | Edit
KINDS: dict[str, type[Kind]] = {
    "text_to_image": TextToImage,
    "image_to_image": ImageToImage,
    "inpaint": Inpaint,
    "outpaint": Outpaint,
    "variation": Variation,
    "edit": Edit,
}
ControlType = Literal["canny", "soft_edge", "depth", "openpose"]


@dataclass(frozen=True, slots=True)
class Control:
    """A picture whose edges, depth or people's poses the drawing follows. `image` is its key on the shelf.

    `strength` 1 is what control networks are taught with, 0 is none. The map that is made of the picture is one more
    picture of the result if `is_returned`.
    """

    type: ControlType
    image: str
    strength: float
    is_returned: bool = False


@dataclass(frozen=True, slots=True)
class Lora:
    """A style or subject added to the model, by its name in the catalogue. `strength` 1 is as it was taught."""

    name: str
    strength: float


@dataclass(frozen=True, slots=True)
class Generation:
    """One request for `count` pictures of one kind by one catalogue model.

    `width` and `height` are pixels of the finished picture. `guidance_scale` is None where the model has none.
    Picture number i is drawn with `seed` + i. `quality` is that of JPEG and WebP files, 0 to 100.

    `previews` are looks at each picture before it is finished, in its format and at its size, that its caller is to
    have; with 0, what its followers see is a pixel for each position of the latents, now and then.
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
    quality: int = USUAL_QUALITY
    previews: int = 0
    lora: Lora | None = None
    control: Control | None = None

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of each picture, wrapped so that every one is a legal seed."""
        return tuple((self.seed + number) % (LARGEST_SEED + 1) for number in range(self.count))


def images_of(generation: Generation) -> tuple[str, ...]:
    """The keys of the callers' pictures that it is drawn from."""
    control = (generation.control.image,) if generation.control else ()
    match generation.kind:
        case TextToImage():
            return control
        case Inpaint(image=image, mask=mask):
            return (image, mask, *control)
        case kind:
            return (kind.image, *control)


def to_json(generation: Generation) -> dict[str, Any]:
    """As plain JSON values; `from_json` gives it back equal."""
    kind = next(name for name, kind in KINDS.items() if isinstance(generation.kind, kind))
    return {**asdict(generation), "kind": {"name": kind, **asdict(generation.kind)}}


def from_json(values: dict[str, Any]) -> Generation:
    fields = dict(values["kind"])
    kind = KINDS[fields.pop("name")](**fields)
    lora, control = values.get("lora"), values.get("control")
    more = {"lora": lora and Lora(**lora), "control": control and Control(**control)}
    return Generation(**{**values, "kind": kind, **more})
