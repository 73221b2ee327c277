"""What a request for flux-fill-dev may hold, sent as JSON or as a form.

The descriptions of the fields say what is allowed; they stand in the API's pages and in the refusals alike.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator
from pydantic_core import from_json

from fluxserve.api import inputs
from fluxserve.api.fields import Incoming, SaidText, Whole
from fluxserve.api.reading import Form, checked
from fluxserve.domain.errors import InvalidInput
from fluxserve.domain.generation import LARGEST_SEED, RANDOM_SEED

PICTURES = ("image", "mask")
NUMBERS_AND_TRUTHS = (
    "guidance",
    "num_inference_steps",
    "num_outputs",
    "output_quality",
    "disable_safety_checker",
    "seed",
    "base64",
)


def _given(value: object) -> inputs.Given:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str) and value.strip() and "\0" not in value:
        value.encode()  # a form can tell of half a character
        return value
    raise ValueError("neither a text nor a file")


Picture = Annotated[inputs.Given, PlainValidator(_given, json_schema_input_type=str)]
Megapixels = Literal["1", "0.25", "match_input"]


class Fill(Incoming):
    """What to draw where a picture is masked."""

    prompt: SaidText = Field(max_length=10_000, description="a text of 1 to 10,000 characters")
    image: Picture = Field(description=inputs.ALLOWED)
    mask: Picture | None = Field(
        None,
        description=f"{inputs.ALLOWED}, white where it is to be painted; without one the image's transparent part is",
    )
    guidance: float = Field(30.0, ge=0, le=100, description="a number from 0 to 100; 30 if absent")
    num_inference_steps: Whole = Field(28, ge=1, le=50, description="a whole number from 1 to 50; 28 if absent")
    num_outputs: Whole = Field(1, ge=1, le=4, description="a whole number of pictures from 1 to 4; 1 if absent")
    megapixels: Megapixels = Field("1", description='"1", "0.25" or "match_input": how large the pictures are')
    output_format: Literal["jpg", "webp", "png"] = Field("jpg", description='"jpg", "webp" or "png"; "jpg" if absent')
    output_quality: Whole = Field(
        80, ge=0, le=100, description="a whole number from 0 to 100, for jpg and webp; 80 if absent"
    )
    disable_safety_checker: bool = Field(
        False, description="true or false; it changes nothing: whether pictures are checked is the server's to say"
    )
    seed: Whole | None = Field(
        None,
        ge=RANDOM_SEED,
        le=LARGEST_SEED,
        description=f"a whole number from 0 to {LARGEST_SEED}; -1 or absent for a random one",
    )
    base64: bool = Field(False, description="true or false: whether the pictures are answered as base64, in JSON")


def read(values: dict[str, Any]) -> Fill:
    """Raises `InvalidInput`."""
    return checked(Fill, {name: value for name, value in values.items() if value is not None})


def form_values(form: Form) -> dict[str, Any]:
    """A form as the JSON object that says the same; what is left empty is absent. Raises `InvalidInput`."""
    values: dict[str, Any] = {}
    for name, text in form.texts.items():
        if text:
            values[name] = _value(text) if name in NUMBERS_AND_TRUTHS else text
    for name, files in form.files.items():
        if len(files) > 1:
            raise InvalidInput(name, f"{len(files)} files", "allowed is one")
        if files[0].data:
            values[name] = files[0].data
    return values


def _value(text: str) -> object:
    """The number or the truth that a text tells; the text itself if it tells none."""
    truths = {"true": True, "false": False}
    if text.lower() in truths:  # Python writes them True and False
        return truths[text.lower()]
    try:
        value: object = from_json(text, allow_inf_nan=False)
    except ValueError:
        return text
    return value if isinstance(value, (int, float)) else text


def json_schema() -> dict[str, Any]:
    """The body as the API's pages tell it."""
    return _schema({"type": "string"})


def form_schema() -> dict[str, Any]:
    """The same as a form, whose pictures may be files."""
    return _schema({"type": "string", "format": "binary"})


def _schema(picture: dict[str, str]) -> dict[str, Any]:
    schema = Fill.model_json_schema()
    for name in PICTURES:
        schema["properties"][name] = picture | {"description": schema["properties"][name]["description"]}
    return schema
