"""What a request for pictures may hold, sent as JSON or as a form. Descriptions stand in the pages and in refusals."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from fluxserve.api.fields import Incoming, SaidText, Whole
from fluxserve.domain.catalog import LONGEST_SIDE, MODELS, SHORTEST_SIDE, Quality
from fluxserve.domain.errors import InvalidInput
from fluxserve.domain.generation import ImageFormat

OWN_MODELS = ("gpt-image-1", "gpt-4o-image")
MOST_PIXELS = 1536 * 1024
MOST_IMAGES = 16
SIZES = ((1024, 1024), (1536, 1024), (1024, 1536))
SIZE_ALLOWED = (
    f'"auto", or WIDTHxHEIGHT such as 1024x1024, 1536x1024 or 1024x1536: sides of {SHORTEST_SIDE} to {LONGEST_SIDE} '
    f"pixels, {MOST_PIXELS} in all"
)


def _number(value: object) -> object:
    """A form has texts only."""
    if isinstance(value, str) and len(value) < 10 and value.removeprefix("-").isdecimal():
        return int(value)
    return value


def _truth(value: object) -> object:
    return {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value


Number = Annotated[Whole, BeforeValidator(_number)]
Truth = Annotated[bool, BeforeValidator(_truth)]


class Asked(Incoming):
    """What both ways to a picture have."""

    prompt: SaidText = Field(max_length=32_000, description="a text of 1 to 32,000 characters")
    model: str | None = Field(None, description=f"one of {', '.join((*OWN_MODELS, *MODELS))}")
    n: Number | None = Field(None, ge=1, le=10, description="a whole number of pictures from 1 to 10")
    size: str | None = Field(None, description=SIZE_ALLOWED)
    quality: Literal["auto", "low", "medium", "high", "standard", "hd"] | None = Field(
        None, description='"auto", "low", "medium" or "high"'
    )
    background: Literal["auto", "opaque", "transparent"] | None = Field(
        None, description='"auto" or "opaque": a transparent background can\'t be drawn here'
    )
    moderation: Literal["auto", "low"] | None = Field(None, description='"auto" or "low"; the check is the same')
    output_format: ImageFormat | None = Field(None, description='"png", "jpeg" or "webp"')
    output_compression: Number | None = Field(
        None, ge=0, le=100, description="a whole number from 0 to 100, the quality of a JPEG or WebP; 100 for PNG"
    )
    stream: Truth | None = Field(None, description="true or false")
    partial_images: Number | None = Field(None, ge=0, le=3, description="a whole number from 0 to 3; with stream")

    @property
    def drawn_model(self) -> str:
        """The name that it is sold by. Raises `InvalidInput`."""
        name = self.model or OWN_MODELS[0]
        if name not in OWN_MODELS and name not in MODELS:
            raise InvalidInput("model", name, f"allowed is {type(self).model_fields['model'].description}")
        return name

    @property
    def drawn_quality(self) -> Quality:
        match self.quality:
            case "low" | "medium" | "high":
                return self.quality
            case "hd":  # what older programs call it
                return "high"
            case _:
                return "medium"

    @property
    def drawn_size(self) -> tuple[int, int] | None:
        """(width, height), None for "auto". Raises `InvalidInput`."""
        if self.size in (None, "auto"):
            return None
        sides = [int(side) for side in self.size.split("x") if side.isdecimal() and len(side) <= 5]
        is_two = len(sides) == 2 and self.size == f"{sides[0]}x{sides[1]}"
        if not is_two or not all(SHORTEST_SIDE <= side <= LONGEST_SIDE for side in sides):
            raise InvalidInput("size", self.size, f"allowed is {SIZE_ALLOWED}")
        if sides[0] * sides[1] > MOST_PIXELS:
            raise InvalidInput("size", self.size, f"allowed is {SIZE_ALLOWED}")
        return sides[0], sides[1]

    def check(self) -> None:
        """What one field alone does not tell. Raises `InvalidInput`."""
        _ = self.drawn_model, self.drawn_size
        if self.background == "transparent":
            raise InvalidInput(
                "background", "transparent", 'allowed is "auto" or "opaque": there are no transparent backgrounds here'
            )
        if self.output_compression not in (None, 100) and (self.output_format or "png") == "png":
            raise InvalidInput(
                "output_compression", self.output_compression, "allowed is 100 for png; jpeg and webp have qualities"
            )
        if self.partial_images and not self.stream:
            raise InvalidInput("partial_images", self.partial_images, "allowed is 0 without stream")


class GenerateImage(Asked):
    """A picture from words."""


class EditImage(Asked):
    """A picture from others: changed as the words say, or where a mask is transparent."""

    input_fidelity: Literal["low", "high"] | None = Field(None, description='"low" or "high"; both are the same here')


def form_schema() -> dict[str, Any]:
    """An edit on the API's pages: a form, with files."""
    schema = EditImage.model_json_schema()
    file = {"type": "string", "format": "binary"}
    schema["properties"]["image[]"] = {"type": "array", "items": file, "maxItems": MOST_IMAGES}
    schema["properties"]["image"] = {
        **file,
        "description": f"a PNG, JPEG or WebP picture; image[] for up to {MOST_IMAGES}",
    }
    schema["properties"]["mask"] = {
        **file,
        "description": "a PNG picture as large as the first, transparent where to draw",
    }
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}
