"""The example bodies of the vendor's pages, as they stand there but for their pictures, which are ours."""

import base64
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from PIL import Image, ImageDraw

ADVANCED = "Qubico/flux1-dev-advanced"
SILENT = {"webhook_config": {"endpoint": "", "secret": ""}}
WEBHOOK = {"webhook_config": {"endpoint": "https://webhook.site/d35ab4aa-95f9-4855-af82-32fbfbb67063", "secret": ""}}


@dataclass(frozen=True)
class Example:
    """A request, and what its result must be: so many pictures of `size`.

    `needs` are the abilities of a family that draw it."""

    name: str
    body: dict[str, Any]
    size: tuple[int, int]
    needs: frozenset[str]
    pictures: int = 1


# ---------------------------------------------------------------- pictures in the place of theirs


def _sent(image: Image.Image, kind: str) -> str:
    file = BytesIO()
    image.save(file, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def scene() -> Image.Image:
    """Something in a green field under the sky."""
    image = Image.new("RGB", (1024, 1024), (150, 200, 250))
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 480, 1024, 1024), (70, 150, 50))
    pen.ellipse((360, 330, 660, 730), (200, 60, 50), (60, 20, 20), 12)
    return image


def painted_over() -> Image.Image:
    """The same with its middle painted white, which is what a mask is."""
    image = scene()
    ImageDraw.Draw(image).rectangle((330, 300, 690, 760), "white")
    return image


def someone() -> Image.Image:
    """A figure that stands with its arms out."""
    image = Image.new("RGB", (768, 1024), (225, 225, 230))
    pen = ImageDraw.Draw(image)
    pen.line((100, 400, 668, 400), (200, 40, 40), 70)
    pen.line((384, 330, 384, 620), (200, 40, 40), 130)
    for foot in (290, 480):
        pen.line((384, 600, foot, 960), (40, 50, 90), 70)
    pen.ellipse((310, 150, 460, 320), (240, 190, 140))
    return image


PNG = _sent(scene(), "PNG")
JPEG = _sent(scene().resize((640, 480)), "JPEG")
WEBP = _sent(scene().resize((896, 1152)), "WEBP")
MASKED = _sent(painted_over(), "PNG")
POSED = _sent(someone(), "JPEG")


# ---------------------------------------------------------------- the pages


def _controlled(control_type: str, picture: str, strength: float, lora: str, guidance: float = 2.5) -> dict[str, Any]:
    prompt = "A girl in city, 25 years old, cool, futuristic"
    if control_type == "openpose":
        prompt = "person enjoying a day at the park, full hd, cinematic"
    return {
        "model": ADVANCED,
        "task_type": "controlnet-lora",
        "input": {
            "steps": 28,
            "prompt": prompt,
            "negative_prompt": "low quality, ugly, distorted, artefacts",
            "guidance_scale": guidance,
            "control_net_settings": [
                {
                    "control_type": control_type,
                    "control_image": picture,
                    "control_strength": strength,
                    "return_preprocessed_image": True,
                }
            ],
            "lora_settings": [{"lora_type": lora, "lora_strength": 1}],
        },
        "config": SILENT,
    }


def _advanced(task_type: str, config: dict[str, Any] = SILENT, **fields: Any) -> dict[str, Any]:
    return {"model": ADVANCED, "task_type": task_type, "input": fields, "config": config}


DRAWS, LORA = frozenset({"dev"}), frozenset({"dev", "loras"})
CONTROLLED = LORA | {"control"}

EXAMPLES = (
    Example(
        "txt2img",
        {
            "model": "Qubico/flux1-dev",
            "task_type": "txt2img",
            "input": {"prompt": "a little cat", "width": 1024, "height": 1024},
        },
        (1024, 1024),
        DRAWS,
    ),
    Example(
        "img2img",
        {
            "model": "Qubico/flux1-schnell",
            "task_type": "img2img",
            "input": {"prompt": "a bear", "image": JPEG},
            "config": {"webhook_config": {"endpoint": "https://webhook.site/xxxx", "secret": ""}},
        },
        (640, 480),
        frozenset({"schnell"}),
    ),
    Example(
        "txt2img-lora",
        _advanced("txt2img-lora", WEBHOOK, prompt="spiderman", lora_settings=[{"lora_type": "mjv6"}]),
        (1024, 1024),
        LORA,
    ),
    Example(
        "controlnet-lora",
        _advanced(
            "controlnet-lora",
            WEBHOOK,
            prompt="spiderman",
            control_net_settings=[{"control_type": "depth", "control_image": PNG}],
            lora_settings=[{"lora_type": "mjv6"}],
        ),
        (1024, 1024),
        CONTROLLED,
    ),
    Example("canny", _controlled("canny", WEBP, 0.45, "graphic-portrait"), (896, 1152), CONTROLLED, pictures=2),
    Example("depth", _controlled("depth", WEBP, 0.45, "geometric-woman"), (896, 1152), CONTROLLED, pictures=2),
    Example(
        "soft_edge", _controlled("soft_edge", WEBP, 0.55, "remes-abstract-poster-style"), (896, 1152), CONTROLLED, 2
    ),
    Example("openpose", _controlled("openpose", POSED, 0.7, "mjv6", 4.0), (768, 1024), CONTROLLED, pictures=2),
    Example(
        "fill-inpaint",
        _advanced("fill-inpaint", prompt="a girl in blue and red skirt", image=MASKED),
        (1024, 1024),
        frozenset({"fill"}),
    ),
    Example(
        "fill-outpaint",
        _advanced(
            "fill-outpaint",
            prompt="a girl in a great grass sea",
            image=MASKED,
            custom_settings=[
                {
                    "setting_type": "outpaint",
                    "outpaint_left": 500,
                    "outpaint_right": 500,
                    "outpaint_top": 0,
                    "outpaint_bottom": 0,
                }
            ],
        ),
        (2024, 1024),
        frozenset({"fill"}),
    ),
    Example(
        "redux-variation",
        _advanced("redux-variation", prompt="a superman", image=MASKED),
        (1024, 1024),
        frozenset({"dev", "image_prompt"}),
    ),
    Example(
        "kontext",
        _advanced(
            "kontext",
            WEBHOOK,
            prompt="change the word Piapi to Pineapple",
            image=PNG,
            width=1024,
            height=1024,
            steps=10,
            seed=-1,
        ),
        (1024, 1024),
        frozenset({"edit"}),
    ),
)


# The pages speak of these, without an example: img2img with a LoRA, and controls without one, over a picture too.
UNSHOWN = (
    Example(
        "img2img-lora",
        _advanced("img2img-lora", prompt="a fox", image=JPEG, lora_settings=[{"lora_type": "anime"}]),
        (640, 480),
        LORA,
    ),
    *(
        Example(
            f"{control_type} alone",
            _advanced(
                "controlnet-lora",
                prompt="a person in the snow",
                control_net_settings=[{"control_type": control_type, "control_image": POSED}],
            ),
            (768, 1024),
            DRAWS | {"control"},
        )
        for control_type in ("canny", "hed", "depth", "openpose")
    ),
    Example(
        "a control over a picture",
        _advanced(
            "controlnet-lora",
            prompt="a red ball",
            image=JPEG,
            denoise=0.8,
            control_net_settings=[{"control_type": "canny", "control_image": JPEG, "return_preprocessed_image": True}],
        ),
        (640, 480),
        DRAWS | {"control"},
        pictures=2,
    ),
)
