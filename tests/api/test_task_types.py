"""The vendor's nine task types: what each makes of a body, and what each refuses."""

import base64
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fluxserve.domain.catalog import FAMILIES, LORAS, abilities
from fluxserve.domain.generation import (
    Control,
    Edit,
    Generation,
    ImageToImage,
    Inpaint,
    Lora,
    Outpaint,
    TextToImage,
    Variation,
    images_of,
)
from tests.api.conftest import Door

pytestmark = pytest.mark.anyio


def picture(width: int = 96, height: int = 64, *, spot: str | None = "white") -> str:
    image = Image.new("RGB", (width, height), "teal")
    if spot:
        image.paste(spot, (10, 10, 40, 40))
    file = BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


PICTURE, WIDE = picture(), picture(160, 32)
NO_PICTURE = base64.b64encode(b"not a picture").decode()
LORA = [{"lora_type": "mjv6"}]
CANNY = [{"control_type": "canny", "control_image": WIDE}]
OUTPAINT = [{"setting_type": "outpaint", "outpaint_left": 500, "outpaint_right": 500}]
GROWN = [{"setting_type": "outpaint", "outpaint_left": 1, "outpaint_right": 2, "outpaint_top": 3, "outpaint_bottom": 4}]


def body(task_type: str, **fields: object) -> dict[str, Any]:
    return {"model": "Qubico/flux1-dev-advanced", "task_type": task_type, "input": {"prompt": "a cat", **fields}}


async def made(door: Door, task_type: str, **fields: object) -> Generation:
    answer = await door.client.post("/api/v1/task", json=body(task_type, **fields))
    assert answer.status_code == 200, answer.text
    task = await door.queue.get(door.account_id, answer.json()["data"]["task_id"])
    return task.generation


def blank(generation: Generation) -> Generation:
    """With every key on the shelf replaced by its number."""
    names = {key: str(number) for number, key in enumerate(images_of(generation))}
    kind = generation.kind
    fields = {name: names[getattr(kind, name)] for name in ("image", "mask") if hasattr(kind, name)}
    control = generation.control and replace(generation.control, image=names[generation.control.image])
    return replace(generation, kind=replace(kind, **fields), control=control, seed=0)  # type: ignore[arg-type]


USUAL = Generation("flux1-dev-advanced", TextToImage("a cat"), 1024, 1024, steps=25, guidance_scale=3.5, seed=0)
CASES: dict[str, tuple[str, dict[str, object], Generation]] = {
    "a LoRA": (
        "txt2img-lora",
        {"lora_settings": LORA, "width": 512, "height": 256},
        replace(USUAL, width=512, height=256, lora=Lora("mjv6", 1.0)),
    ),
    "a LoRA with a strength, in other letters": (
        "txt2img-lora",
        {"lora_settings": [{"lora_type": " MJv6", "lora_strength": 0.5}], "control_net_settings": []},
        replace(USUAL, lora=Lora("mjv6", 0.5)),
    ),
    "a LoRA of one's own": (
        "txt2img-lora",
        {"lora_settings": [{"lora_type": "myown", "lora_strength": 0}]},
        replace(USUAL, lora=Lora("MyOwn", 0.0)),
    ),
    "a LoRA over a picture": (
        "img2img-lora",
        {"lora_settings": LORA, "image": PICTURE, "width": 512, "denoise": 0.4},
        replace(USUAL, kind=ImageToImage("a cat", "0", 0.4), width=96, height=64, lora=Lora("mjv6", 1.0)),
    ),
    "a control": (
        "controlnet-lora",
        {"control_net_settings": CANNY},
        replace(USUAL, width=160, height=64, control=Control("canny", "0", 0.7)),
    ),
    "a control with everything": (
        "controlnet-lora",
        {
            "control_net_settings": [
                {
                    "control_type": "canny",
                    "control_image": PICTURE,
                    "control_strength": 0.45,
                    "return_preprocessed_image": True,
                }
            ],
            "lora_settings": [{"lora_type": "anime", "lora_strength": 2}],
            "image": WIDE,
            "steps": 28,
            "guidance_scale": 2.5,
            "negative_prompt": "ugly",
        },
        replace(
            USUAL, kind=ImageToImage("a cat", "0", 0.7, "ugly"), width=160, height=64, steps=28, guidance_scale=2.5,
            lora=Lora("anime", 2.0), control=Control("canny", "1", 0.45, is_returned=True),
        ),
    ),
    "an inpaint": (
        "fill-inpaint",
        {"image": PICTURE, "lora_settings": None},
        replace(USUAL, kind=Inpaint("a cat", "0", "1"), width=96, height=64, guidance_scale=30.0),
    ),
    "an outpaint": (
        "fill-outpaint",
        {"image": PICTURE, "custom_settings": GROWN},
        replace(USUAL, kind=Outpaint("a cat", "0", 1, 2, 3, 4), width=99, height=71, guidance_scale=30.0),
    ),
    "an outpaint to both sides": (
        "fill-outpaint",
        {"image": PICTURE, "custom_settings": OUTPAINT, "guidance_scale": 4},
        replace(USUAL, kind=Outpaint("a cat", "0", 500, 500, 0, 0), width=1096, height=64, guidance_scale=4.0),
    ),
    "a variation": (
        "redux-variation",
        {"image": PICTURE, "negative_prompt": "ugly"},
        replace(USUAL, kind=Variation("a cat", "0", "ugly"), width=96, height=64),
    ),
    "an edit": (
        "kontext",
        {"image": PICTURE},
        replace(USUAL, kind=Edit("a cat", "0"), width=96, height=64, steps=28, guidance_scale=2.5),
    ),
    "an edit of another size": (
        "kontext",
        {"image": PICTURE, "width": 512, "steps": 10},
        replace(USUAL, kind=Edit("a cat", "0"), width=512, steps=10, guidance_scale=2.5),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
async def test_each_becomes_what_is_to_be_drawn(door: Door, case: str) -> None:
    task_type, fields, expected = CASES[case]
    assert blank(await made(door, task_type, **fields)) == expected


REFUSED: dict[str, tuple[str, dict[str, object], str]] = {
    "no LoRA": ("txt2img-lora", {}, "input.lora_settings: "),
    "an empty list of LoRAs": ("txt2img-lora", {"lora_settings": []}, "input.lora_settings: "),
    "two LoRAs": ("txt2img-lora", {"lora_settings": LORA * 2}, "input.lora_settings: "),
    "an unknown LoRA": (
        "txt2img-lora",
        {"lora_settings": [{"lora_type": "nobody"}]},
        "input.lora_settings.0.lora_type: ",
    ),
    "a LoRA by a path": (
        "txt2img-lora",
        {"lora_settings": [{"lora_type": "../x"}]},
        "input.lora_settings.0.lora_type: ",
    ),
    "a LoRA too strong": (
        "txt2img-lora",
        {"lora_settings": [{"lora_type": "mjv6", "lora_strength": 3}]},
        "input.lora_settings.0.lora_strength: ",
    ),
    "a LoRA where none may be": ("fill-inpaint", {"image": PICTURE, "lora_settings": LORA}, "input.lora_settings: "),
    "a LoRA as text": ("txt2img-lora", {"lora_settings": "mjv6"}, "input.lora_settings: "),
    "no control": ("controlnet-lora", {"lora_settings": LORA}, "input.control_net_settings: "),
    "two controls": ("controlnet-lora", {"control_net_settings": CANNY * 2}, "input.control_net_settings: "),
    "a control where none may be": (
        "txt2img-lora",
        {"lora_settings": LORA, "control_net_settings": CANNY},
        "input.control_net_settings: ",
    ),
    "an unknown control": (
        "controlnet-lora",
        {"control_net_settings": [{"control_type": "smell", "control_image": PICTURE}]},
        "input.control_net_settings.0.control_type: ",
    ),
    "a control without a picture": (
        "controlnet-lora",
        {"control_net_settings": [{"control_type": "canny"}]},
        "input.control_net_settings.0.control_image: ",
    ),
    "a control of no picture": (
        "controlnet-lora",
        {"control_net_settings": [{"control_type": "canny", "control_image": NO_PICTURE}]},
        "input.control_net_settings.0.control_image: ",
    ),
    "a good control and a bad picture": (
        "controlnet-lora",
        {"control_net_settings": CANNY, "image": NO_PICTURE},
        "input.image: ",
    ),
    "an inpaint without a mask": ("fill-inpaint", {"image": picture(spot=None)}, "input.image: "),
    "an outpaint without settings": ("fill-outpaint", {"image": PICTURE}, "input.custom_settings: "),
    "an outpaint by nothing": (
        "fill-outpaint",
        {"image": PICTURE, "custom_settings": [{"setting_type": "outpaint"}]},
        "input.custom_settings.0: ",
    ),
    "an outpaint by less than nothing": (
        "fill-outpaint",
        {"image": PICTURE, "custom_settings": [{"setting_type": "outpaint", "outpaint_left": -5}]},
        "input.custom_settings.0.outpaint_left: ",
    ),
    "an outpaint by too much": (
        "fill-outpaint",
        {
            "image": PICTURE,
            "custom_settings": [{"setting_type": "outpaint", "outpaint_left": 4096, "outpaint_top": 4096}],
        },
        "input.custom_settings.0: ",
    ),
    "another setting": (
        "fill-outpaint",
        {"image": PICTURE, "custom_settings": [{"setting_type": "zoom"}]},
        "input.custom_settings.0.setting_type: ",
    ),
    "a variation of nothing": ("redux-variation", {}, "input.image: "),
    "an edit with too many steps": ("kontext", {"image": PICTURE, "steps": 41}, "input.steps: "),
    "an edit too large": ("kontext", {"image": PICTURE, "width": 2048, "height": 1024}, "input.width: "),
    "a fill with too much guidance": (
        "fill-inpaint",
        {"image": PICTURE, "guidance_scale": 30},
        "input.guidance_scale: ",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_can_t_be_done_is_refused_by_field_and_leaves_nothing(door: Door, tmp_path: Path, case: str) -> None:
    task_type, fields, field = REFUSED[case]
    answer = await door.client.post("/api/v1/task", json=body(task_type, **fields))
    assert answer.status_code == 400
    message = answer.json()["message"]
    assert message.startswith(field), message
    assert "allowed" in message
    assert not [path for path in (tmp_path / "pictures").rglob("*") if path.is_file()]


@pytest.mark.parametrize("model", ["Qubico/flux1-schnell", "Qubico/flux1-dev"])
async def test_only_the_advanced_model_does_more_than_pictures_from_words_and_pictures(door: Door, model: str) -> None:
    answer = await door.client.post("/api/v1/task", json=body("kontext", image=PICTURE) | {"model": model})
    assert answer.status_code == 400
    assert answer.json()["message"].endswith(f"{model} allows txt2img, img2img")


async def test_pictures_that_came_in_the_request_are_not_repeated(door: Door) -> None:
    fields = {"control_net_settings": CANNY, "image": PICTURE, "lora_settings": LORA}
    answer = await door.client.post("/api/v1/task", json=body("controlnet-lora", **fields))
    echo = answer.json()["data"]["input"]
    assert echo["image"] == ""
    assert echo["control_net_settings"] == [{"control_type": "canny", "control_image": ""}]
    assert echo["lora_settings"] == LORA


def test_a_family_offers_what_it_has_weights_for() -> None:
    assert abilities("flux1") >= {"dev", "fill", "edit", "control", "image_prompt", "loras"}
    assert abilities("mini") >= {"schnell", "dev"}
    for family in FAMILIES:
        assert ("fill" in abilities(family)) == ("fill" in FAMILIES[family])


def test_there_are_twenty_three_loras() -> None:
    assert len(set(LORAS)) == 23
