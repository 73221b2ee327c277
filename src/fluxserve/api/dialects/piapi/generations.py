"""From a checked request to a generation: defaults filled in, the model's limits applied, pictures brought in.

The pictures come last, since they cost most; when one can't be taken, those taken before it are let go again.
"""

from dataclasses import dataclass, field

from fluxserve.api.dialects.piapi.requests import (
    DEFAULT_DENOISE,
    MOST_ADDED,
    Asked,
    ControlInput,
    DrawingInput,
    EditInput,
    ImageToImageInput,
    ImageToImageLoraInput,
    InpaintInput,
    LoraSetting,
    OutpaintInput,
    TextToImageInput,
    TextToImageLoraInput,
    VariationInput,
)
from fluxserve.api.inputs import Input, Inputs
from fluxserve.api.submitting import seed_of
from fluxserve.domain.catalog import (
    CONTROL_STRENGTHS,
    LONGEST_CANVAS_SIDE,
    MOST_CANVAS_PIXELS,
    USUAL,
    Model,
    Usual,
)
from fluxserve.domain.errors import InvalidInput
from fluxserve.domain.generation import (
    Control,
    ControlType,
    Edit,
    Generation,
    ImageToImage,
    Inpaint,
    Kind,
    Lora,
    Outpaint,
    TextToImage,
    Variation,
)


@dataclass(slots=True)
class Taking:
    """The pictures of one request, and the keys under which they lie on the shelf so far."""

    inputs: Inputs
    account_id: str
    keys: list[str] = field(default_factory=list)

    async def take(self, name: str, text: str) -> Input:
        taken = await self.inputs.take(self.account_id, name, text)
        self.keys.append(taken.key)
        return taken

    async def take_masked(self, name: str, text: str) -> tuple[Input, Input]:
        both = await self.inputs.take_masked(self.account_id, name, text, mask="own")
        self.keys += [taken.key for taken in both]
        return both


@dataclass(frozen=True, slots=True)
class Brief:
    """What a task type's own fields come to: what is drawn, and how large."""

    kind: Kind
    size: tuple[int, int]
    control: Control | None = None


async def to_generation(asked: Asked, account_id: str, inputs: Inputs, lora_names: frozenset[str]) -> Generation:
    """Raises `InvalidInput`, and then leaves nothing on the shelf."""
    wanted, model = asked.input, asked.model
    usual = USUAL.get(asked.task_type.ability or asked.model.member, Usual())
    taking = Taking(inputs, account_id)
    try:
        steps = model.steps(wanted.steps or usual.steps)
        guidance_scale = model.guidance(wanted.guidance_scale, usual.guidance_scale)
        lora = _lora(wanted, lora_names)
        drawn = await _drawn(wanted, model, taking)
    except InvalidInput as error:
        await inputs.discard(taking.keys)
        raise error.inside("input") from None
    except BaseException:
        await inputs.discard(taking.keys)
        raise
    width, height = drawn.size
    return Generation(
        model=model.name,
        kind=drawn.kind,
        width=width,
        height=height,
        steps=steps,
        guidance_scale=guidance_scale,
        seed=seed_of(wanted.seed),
        count=min(wanted.batch_size or 1, model.most_pictures),
        lora=lora,
        control=drawn.control,
    )


async def _drawn(wanted: DrawingInput, model: Model, taking: Taking) -> Brief:
    prompt, negative = wanted.prompt, wanted.negative_prompt or ""
    match wanted:
        case TextToImageInput() | TextToImageLoraInput():
            return Brief(TextToImage(prompt, negative), model.size(wanted.width, wanted.height))
        case ImageToImageInput() | ImageToImageLoraInput():
            picture = await taking.take("image", wanted.image)
            kind = ImageToImage(prompt, picture.key, wanted.denoise or DEFAULT_DENOISE, negative)
            return Brief(kind, model.size_like(picture.width, picture.height))
        case ControlInput():
            return await _controlled(wanted, model, taking)
        case InpaintInput():
            picture, mask = await taking.take_masked("image", wanted.image)
            return Brief(Inpaint(prompt, picture.key, mask.key, negative), (picture.width, picture.height))
        case OutpaintInput():
            return await _outpaint(wanted, taking)
        case VariationInput():
            picture = await taking.take("image", wanted.image)
            return Brief(Variation(prompt, picture.key, negative), model.size_like(picture.width, picture.height))
        case EditInput():
            size = model.size(wanted.width, wanted.height)  # before the picture: it costs nothing
            picture = await taking.take("image", wanted.image)
            if not (wanted.width or wanted.height):
                size = model.size_like(picture.width, picture.height)
            return Brief(Edit(prompt, picture.key, negative), size)
        case _:
            raise TypeError(f"no kind of drawing for {type(wanted).__name__}")


async def _controlled(wanted: ControlInput, model: Model, taking: Taking) -> Brief:
    setting, prompt, negative = wanted.control_net_settings[0], wanted.prompt, wanted.negative_prompt or ""
    seen = await taking.take("control_net_settings.0.control_image", setting.control_image)
    strength = setting.control_strength
    control_type: ControlType = "soft_edge" if setting.control_type == "hed" else setting.control_type
    if strength is None:
        strength = CONTROL_STRENGTHS[control_type]
    control = Control(control_type, seen.key, strength, bool(setting.return_preprocessed_image))
    if wanted.image is None:
        return Brief(TextToImage(prompt, negative), model.size_like(seen.width, seen.height), control)
    picture = await taking.take("image", wanted.image)
    kind = ImageToImage(prompt, picture.key, wanted.denoise or DEFAULT_DENOISE, negative)
    return Brief(kind, model.size_like(picture.width, picture.height), control)


async def _outpaint(wanted: OutpaintInput, taking: Taking) -> Brief:
    setting = wanted.custom_settings[0]
    left, right, top, bottom = (
        pixels or 0
        for pixels in (
            setting.outpaint_left, setting.outpaint_right, setting.outpaint_top, setting.outpaint_bottom
        )
    )  # fmt: skip
    asked = f"left {left}, right {right}, top {top}, bottom {bottom}"
    if not (left or right or top or bottom):
        raise InvalidInput("custom_settings.0", asked, "allowed is a growth by at least one pixel at one edge")
    picture = await taking.take("image", wanted.image)
    width, height = picture.width + left + right, picture.height + top + bottom
    added = width * height - picture.width * picture.height
    if added >= MOST_ADDED:
        allowed = f"allowed is an added area of fewer than {MOST_ADDED} pixels, and with this picture it is {added}"
        raise InvalidInput("custom_settings.0", asked, allowed)
    if max(width, height) > LONGEST_CANVAS_SIDE or width * height > MOST_CANVAS_PIXELS:
        allowed = f"allowed are {MOST_CANVAS_PIXELS} pixels in all and {LONGEST_CANVAS_SIDE} along a side"
        raise InvalidInput("custom_settings.0", asked, f"{allowed}, and it would be {width}x{height}")
    kind = Outpaint(wanted.prompt, picture.key, left, right, top, bottom, wanted.negative_prompt or "")
    return Brief(kind, (width, height))


def _lora(wanted: DrawingInput, names: frozenset[str]) -> Lora | None:
    settings: list[LoraSetting] = getattr(wanted, "lora_settings", None) or []
    if not settings:
        return None
    known = {name.lower(): name for name in names}
    name = settings[0].lora_type.strip().lower()
    if name not in known:
        allowed = ", ".join(sorted(names)) or "none: there are no LoRAs here"
        raise InvalidInput("lora_settings.0.lora_type", settings[0].lora_type, f"allowed is one of {allowed}")
    strength = settings[0].lora_strength
    return Lora(known[name], 1.0 if strength is None else strength)
