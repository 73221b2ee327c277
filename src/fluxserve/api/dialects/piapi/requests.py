"""What a creating request may hold: a table of the vendor's task types, and for each the fields of its `input`.

The descriptions of the fields say what is allowed; they stand in the API's pages and in the refusals alike. Values that
depend on the model are checked where the generation is made.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field

from fluxserve.api import inputs
from fluxserve.api.fields import Incoming, SaidText, Text, Whole
from fluxserve.api.reading import checked
from fluxserve.domain.catalog import LONGEST_SIDE, LORAS, MODELS, MOST_PIXELS, SHORTEST_SIDE, Model
from fluxserve.domain.errors import InvalidInput
from fluxserve.domain.generation import LARGEST_SEED, RANDOM_SEED
from fluxserve.domain.task import Webhook
from fluxserve.storage import AddressError, web_address

VENDOR = "Qubico/"
DEFAULT_DENOISE = 0.7
MOST_STRENGTH = 2.0
SIDE_ALLOWED = (
    f"a whole number of pixels from {SHORTEST_SIDE} to {LONGEST_SIDE}, width x height at most {MOST_PIXELS}; "
    "0 or absent for 1024"
)
EDIT_SIDE_ALLOWED = SIDE_ALLOWED.replace("for 1024", "for 1024, and both for the picture's own size")
MOST_ADDED = 1024 * 1024  # pixels, all that an outpaint may add


def _address(text: str) -> str:
    """One that the parser takes which reads it again when it is sent to: another might understand it otherwise."""
    try:
        if text:
            web_address(text)
    except AddressError as error:
        raise ValueError(str(error)) from None
    return text


def _sendable(text: str) -> str:
    """It will stand in a header, which has no space at its ends."""
    if not (text.isascii() and text.isprintable()) or text != text.strip():
        raise ValueError("a character that no header may have there")
    return text


# ---------------------------------------------------------------- the fields of `input`


class DrawingInput(Incoming):
    """What every task type is told."""

    prompt: SaidText = Field(max_length=10_000, description="a text of 1 to 10,000 characters")
    negative_prompt: Text | None = Field(
        None, max_length=10_000, description="a text of at most 10,000 characters: what the picture should not show"
    )
    guidance_scale: float | None = Field(
        None, description="a number from 1.5 to 5; schnell has no guidance and ignores it"
    )
    steps: Whole | None = Field(
        None,
        description="a whole number of denoising steps: at most 10 for schnell, 40 for dev; 0 or absent for 4 and 25, "
        "and for 28 in kontext",
    )
    seed: Whole | None = Field(
        None,
        ge=RANDOM_SEED,
        le=LARGEST_SEED,
        description=f"a whole number from 0 to {LARGEST_SEED}; -1 or absent for a random one",
    )
    batch_size: Whole | None = Field(
        None, ge=1, le=4, description="a whole number of pictures from 1 to 4; only schnell makes more than one"
    )


class NoLora(Incoming):
    lora_settings: Annotated[list[Any], Field(max_length=0)] | None = Field(
        None, description="null or [] for this task type, which takes no LoRA"
    )


class NoControl(Incoming):
    control_net_settings: Annotated[list[Any], Field(max_length=0)] | None = Field(
        None, description="null or [] for this task type, which takes no control"
    )


class LoraSetting(Incoming):
    """One LoRA."""

    lora_type: Text = Field(
        max_length=200, description=f"the name of a LoRA: one of {', '.join(LORAS)}, or of your own"
    )
    lora_strength: float | None = Field(
        None, ge=0, le=MOST_STRENGTH, description=f"a number from 0 to {MOST_STRENGTH:g}; 1 if absent"
    )


class ControlSetting(Incoming):
    """One control, and the picture that it is taken from."""

    control_type: Literal["depth", "canny", "soft_edge", "hed", "openpose"] = Field(
        description='"depth", "canny", "soft_edge", "hed", which is the same, or "openpose"'
    )
    control_image: SaidText = Field(description=inputs.ALLOWED)
    control_strength: float | None = Field(
        None, ge=0, le=MOST_STRENGTH, description=f"a number from 0 to {MOST_STRENGTH:g}"
    )
    return_preprocessed_image: bool | None = Field(
        None, description="true or false: whether the control's map is one more picture of the result"
    )


class OneLora(Incoming):
    lora_settings: list[LoraSetting] = Field(min_length=1, max_length=1, description="a list of one LoRA's settings")


class MaybeLora(Incoming):
    lora_settings: Annotated[list[LoraSetting], Field(max_length=1)] | None = Field(
        None, description="null or a list of at most one LoRA's settings"
    )


class OneControl(Incoming):
    control_net_settings: list[ControlSetting] = Field(
        min_length=1, max_length=1, description="a list of one control's settings"
    )


class Sized(Incoming):
    width: Whole | None = Field(None, description=SIDE_ALLOWED)
    height: Whole | None = Field(None, description=SIDE_ALLOWED)


class Over(Incoming):
    """Over a picture."""

    image: SaidText = Field(description=inputs.ALLOWED)


class Redrawn(Incoming):
    denoise: float | None = Field(
        None,
        gt=0,
        le=1,
        description=f"a number over 0 up to 1: how little of the picture stays; {DEFAULT_DENOISE} if absent",
    )


class TextToImageInput(Sized, NoLora, NoControl, DrawingInput):
    """txt2img: what to draw, and how large."""


class TextToImageLoraInput(Sized, OneLora, NoControl, DrawingInput):
    """txt2img-lora: the same, with a LoRA."""


class ImageToImageInput(Over, Redrawn, NoLora, NoControl, DrawingInput):
    """img2img: what to draw over a picture. The result has the picture's size."""


class ImageToImageLoraInput(Over, Redrawn, OneLora, NoControl, DrawingInput):
    """img2img-lora: the same, with a LoRA."""


class ControlInput(Redrawn, MaybeLora, OneControl, DrawingInput):
    """controlnet-lora: what to draw along a picture's edges; over another picture if there is an
    `image`. The result has the size of the `image`, else of the control's picture."""

    image: SaidText | None = Field(None, description=inputs.ALLOWED)


class InpaintInput(Over, NoLora, NoControl, DrawingInput):
    """fill-inpaint: what to draw where a picture is white or transparent. The rest of it stays to the last bit."""


class OutpaintSetting(Incoming):
    """By how many pixels a picture grows."""

    setting_type: Literal["outpaint"] = Field(description='"outpaint"')
    outpaint_left: Whole | None = Field(None, ge=0, le=LONGEST_SIDE, description=f"pixels, 0 to {LONGEST_SIDE}")
    outpaint_right: Whole | None = Field(None, ge=0, le=LONGEST_SIDE, description=f"pixels, 0 to {LONGEST_SIDE}")
    outpaint_top: Whole | None = Field(None, ge=0, le=LONGEST_SIDE, description=f"pixels, 0 to {LONGEST_SIDE}")
    outpaint_bottom: Whole | None = Field(None, ge=0, le=LONGEST_SIDE, description=f"pixels, 0 to {LONGEST_SIDE}")


class OutpaintInput(Over, NoLora, NoControl, DrawingInput):
    """fill-outpaint: what a picture continues with beyond its edges. What is there stays to the last bit."""

    custom_settings: list[OutpaintSetting] = Field(
        min_length=1,
        max_length=1,
        description='a list of one object: setting_type "outpaint" and the pixels outpaint_left, outpaint_right, '
        f"outpaint_top and outpaint_bottom, fewer than {MOST_ADDED} of added area in all",
    )


class VariationInput(Over, NoLora, NoControl, DrawingInput):
    """redux-variation: another picture of what a picture shows. The result has the picture's size."""


class EditInput(Over, NoLora, NoControl, DrawingInput):
    """kontext: how to change a picture."""

    width: Whole | None = Field(None, description=EDIT_SIDE_ALLOWED)
    height: Whole | None = Field(None, description=EDIT_SIDE_ALLOWED)


# ---------------------------------------------------------------- the task types


@dataclass(frozen=True, slots=True)
class TaskType:
    """One of the vendor's task types: what its `input` holds, which models do it, and what a family needs for it: a
    member or another ability; None is the model's own member."""

    name: str
    input: type[DrawingInput]
    models: tuple[str, ...]
    ability: str | None = None

    def is_offered(self, model: Model, abilities: frozenset[str]) -> bool:
        return model.name in self.models and (self.ability or model.member) in abilities


EVERY, ADVANCED = tuple(MODELS), ("flux1-dev-advanced",)
TASK_TYPES: dict[str, TaskType] = {
    each.name: each
    for each in (
        TaskType("txt2img", TextToImageInput, EVERY),
        TaskType("img2img", ImageToImageInput, EVERY),
        TaskType("txt2img-lora", TextToImageLoraInput, ADVANCED, "loras"),
        TaskType("img2img-lora", ImageToImageLoraInput, ADVANCED, "loras"),
        TaskType("controlnet-lora", ControlInput, ADVANCED, "control"),
        TaskType("fill-inpaint", InpaintInput, ADVANCED, "fill"),
        TaskType("fill-outpaint", OutpaintInput, ADVANCED, "fill"),
        TaskType("redux-variation", VariationInput, ADVANCED, "image_prompt"),
        TaskType("kontext", EditInput, ADVANCED, "edit"),
    )
}


class WebhookConfig(Incoming):
    endpoint: Annotated[Text, AfterValidator(_address)] | None = Field(
        None, max_length=2000, description="an http or https address, or empty"
    )
    secret: Annotated[Text, AfterValidator(_sendable)] | None = Field(
        None, max_length=1000, description="a text of at most 1,000 printable ASCII characters, no space first or last"
    )


class TaskConfig(Incoming):
    webhook_config: WebhookConfig | None = Field(None, description="an object with endpoint and secret")
    service_mode: Literal["", "public", "private"] | None = Field(
        None, description='"private" for your own workers, "public" or empty for everybody\'s'
    )


class CreateTask(Incoming):
    """The body of a creating request."""

    model: str = Field(description=f"one of {', '.join(VENDOR + name for name in MODELS)}")
    task_type: str = Field(description=f"one of {', '.join(TASK_TYPES)}")
    input: dict[str, Any] = Field(description="an object with a prompt")
    config: TaskConfig | None = Field(None, description="an object with webhook_config and service_mode")


class Upload(Incoming):
    """The body of an upload."""

    file_name: SaidText = Field(max_length=128, description="a name of at most 128 characters")
    file_data: SaidText = Field(description="base64 or a data URI of one PNG, JPEG or WebP picture, at most 10 MB")


class Query(BaseModel):
    """What comes after the question mark is all text; "" means absent, and what nobody knows is ignored."""

    model: Text | None = Field(None, max_length=100, description="the name of a model")


class CancelQuery(Query):
    created_before: float | None = Field(None, ge=0, description="a time in unix seconds")


class HistoryQuery(Query):
    page: int = Field(1, ge=1, le=1_000_000, description="the number of a page, from 1")
    page_size: int = Field(10, ge=1, le=100, description="a number of tasks from 1 to 100")
    start_time: float | None = Field(None, ge=0, description="a time in unix seconds")
    end_time: float | None = Field(None, ge=0, description="a time in unix seconds")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request whose shape has been checked. `task_type` does what `model` can do."""

    body: CreateTask
    model: Model
    task_type: TaskType
    input: DrawingInput

    @property
    def is_private(self) -> bool:
        return self.body.config is not None and self.body.config.service_mode == "private"

    @property
    def webhook(self) -> Webhook | None:
        """Where its caller wants to hear of its end: the address in its one spelling, so that a receiver is one."""
        wanted = self.body.config and self.body.config.webhook_config
        if not (wanted and wanted.endpoint):
            return None
        return Webhook(str(web_address(wanted.endpoint)), wanted.secret or "")


def read(values: dict[str, Any], abilities: frozenset[str]) -> Asked:
    """`abilities` are those of the family that draws. Raises `InvalidInput`."""
    body = checked(CreateTask, values)
    model = MODELS.get(body.model.removeprefix(VENDOR))
    if model is None:
        raise InvalidInput("model", body.model, f"allowed is one of {', '.join(VENDOR + name for name in MODELS)}")
    offered = {each.name: each for each in TASK_TYPES.values() if each.is_offered(model, abilities)}
    if body.task_type not in offered:
        allowed = ", ".join(offered) or "nothing, for its weights are not on this server"
        raise InvalidInput("task_type", body.task_type, f"{body.model} allows {allowed}")
    task_type = offered[body.task_type]
    try:
        return Asked(body, model, task_type, checked(task_type.input, body.input))
    except InvalidInput as error:
        raise error.inside("input") from None


def offered_types(abilities: frozenset[str]) -> Iterator[TaskType]:
    """The task types that a family with these abilities can do, for one model at least."""
    models = MODELS.values()
    return (each for each in TASK_TYPES.values() if any(each.is_offered(model, abilities) for model in models))
