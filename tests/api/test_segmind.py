"""Segmind's flux-fill-dev, waited for: what it takes, what it answers, and what becomes of callers who hang up."""

import asyncio
import base64
import re
from io import BytesIO
from typing import Any

import httpx2 as httpx
import pytest
from PIL import Image
from sqlalchemy import Engine

from fluxserve.api import create_app
from fluxserve.api.dialects.segmind.answers import HEADERS
from fluxserve.domain.errors import Abandoned, CancelledByCaller, DrawingFailed, Expired, Flagged
from fluxserve.domain.generation import Generation, Inpaint, images_of
from fluxserve.domain.task import Errored, State, Task
from tests.api.conftest import KEY, ORIGIN, Door, Line, open_door
from tests.api.test_unavailable import failing

pytestmark = pytest.mark.anyio

URL = "/v1/flux-fill-dev"
PRICE = 200_000  # points
ONCE = {"Idempotency-Key": "my-request-1"}


def png(width: int = 96, height: int = 64, *, hole: tuple[int, int, int, int] | None = None) -> bytes:
    """A teal picture; with a hole, transparent there."""
    image = Image.new("RGBA", (width, height), (0, 128, 128, 255))
    if hole:
        image.paste((0, 0, 0, 0), hole)
    return _file(image)


def mask(width: int = 96, height: int = 64, painted: tuple[int, int, int, int] = (0, 0, 48, 64)) -> bytes:
    image = Image.new("L", (width, height))
    image.paste(255, painted)
    return _file(image)


def _file(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def fill(**fields: object) -> dict[str, Any]:
    return {"prompt": "Green hair", "image": in_base64(png()), "mask": in_base64(mask()), **fields}


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in fill().items() if name not in names}


async def generation_of(door: Door, request_id: str) -> Generation:
    return (await door.queue.get(door.account_id, request_id)).generation


async def generation(door: Door, **fields: object) -> Generation:
    """What is made of a request that nobody waits for."""
    answer = await door.client.post("/v2/flux-fill-dev", json=fill(**fields))
    assert answer.status_code == 200, answer.text
    return await generation_of(door, answer.json()["request_id"])


def pixels(door: Door, key: str) -> Image.Image:
    return Image.open(BytesIO(door.shelf.path(key).read_bytes()))


def files(door: Door) -> set[str]:
    return {path.name for path in door.shelf._folder.glob("??/*")}


# ---------------------------------------------------------------- what is answered


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({}, "jpeg"),
        ({"output_format": "jpg"}, "jpeg"),
        ({"output_format": "png"}, "png"),
        ({"output_format": "webp"}, "webp"),
    ],
)
async def test_a_picture_is_answered_as_its_bytes(each_door: Door, fields: dict[str, str], kind: str) -> None:
    async with each_door.drawing():
        answer = await each_door.client.post(URL, json=fill(seed=7, **fields))

    assert answer.status_code == 200
    assert answer.headers["content-type"] == f"image/{kind}"
    assert answer.content == f"a {kind} of seed 7".encode()


@pytest.mark.parametrize(
    ("fields", "accept"), [({}, "application/json"), ({}, "Application/JSON; q=0.9"), ({"base64": True}, "*/*")]
)
async def test_json_is_answered_to_who_wants_it(door: Door, fields: dict[str, Any], accept: str) -> None:
    async with door.drawing():
        one = await door.client.post(URL, json=fill(seed=7, **fields), headers={"Accept": accept})
        three = await door.client.post(URL, json=fill(seed=7, num_outputs=3, **fields), headers={"Accept": accept})

    assert one.json() == {"image": in_base64(b"a jpeg of seed 7")}
    assert three.json() == {"images": [in_base64(f"a jpeg of seed {seed}".encode()) for seed in (7, 8, 9)]}


@pytest.mark.parametrize("accept", ["*/*", "image/*", "image/jpeg", "application/json, text/plain, */*", "text/html"])
async def test_who_would_take_a_picture_is_given_one_and_of_several_the_first(door: Door, accept: str) -> None:
    async with door.drawing():
        answer = await door.client.post(URL, json=fill(seed=7, num_outputs=2), headers={"Accept": accept})

    assert answer.content == b"a jpeg of seed 7"


async def test_the_headers_tell_what_it_was_and_what_it_cost(door: Door) -> None:
    async with door.drawing():
        answer = await door.client.post(URL, json=fill(seed=7, num_outputs=2))

    task = await door.queue.get(door.account_id, answer.headers["x-request-id"])
    assert task.state is State.COMPLETED
    assert answer.headers["x-cost"] == "0.04"
    assert answer.headers["x-remaining-credits"] == "0.96"
    assert answer.headers["x-seed-value"] == "7"
    assert 0 <= float(answer.headers["x-generation-time"]) < 10
    assert (await door.accounts.get(door.account_id)).balance == 10_000_000 - 2 * PRICE


async def test_a_random_seed_is_told(door: Door) -> None:
    async with door.drawing():
        answers = [await door.client.post(URL, json=fill(**fields)) for fields in ({}, {"seed": -1}, {"seed": None})]

    seeds = [int(answer.headers["x-seed-value"]) for answer in answers]
    assert [answer.content for answer in answers] == [f"a jpeg of seed {seed}".encode() for seed in seeds]
    assert len(set(seeds)) == 3
    assert all(0 <= seed < 2**31 for seed in seeds)


async def test_credits_are_us_dollars(door: Door) -> None:
    for url in ("/v1/get-user-credits", "/v1/credits"):
        answer = await door.client.get(url)
        assert answer.json() == {"credits": 1.0}
        assert answer.headers["x-remaining-credits"] == "1"
    await door.accounts.credit(door.account_id, -0.9999998)
    assert (await door.client.get("/v1/credits")).headers["x-remaining-credits"] == "0.0000002"


async def test_a_page_elsewhere_that_may_call_can_read_the_headers(door: Door) -> None:
    answer = await door.client.get("/v1/credits", headers={"Origin": ORIGIN})

    assert {*HEADERS, "Retry-After"} <= set(answer.headers["access-control-expose-headers"].split(", "))


async def test_another_door_shows_the_task_too(door: Door) -> None:
    async with door.drawing():
        address = "https://pictures.example.com/a.png"
        answer = await door.client.post(URL, json=fill(seed=7))
        refused = await door.client.post(URL, json=fill(image=address))

    data = await door.data(answer.headers["x-request-id"])
    assert (data["status"], data["model"], data["task_type"]) == ("completed", "flux-fill-dev", "fill-inpaint")
    assert data["input"]["prompt"] == "Green hair"
    assert (data["input"]["image"], data["input"]["mask"]) == ("", "")
    assert refused.status_code == 400
    histories = (await door.client.get("/api/open/tasks/histories")).json()["data"]
    assert [task["task_id"] for task in histories["data"]] == [answer.headers["x-request-id"]]


# ---------------------------------------------------------------- the fields


async def test_what_is_absent_has_the_vendors_defaults(door: Door) -> None:
    asked = await generation(door)

    assert isinstance(asked.kind, Inpaint)
    assert (asked.model, asked.kind.prompt) == ("flux1-dev-advanced", "Green hair")
    assert (asked.steps, asked.guidance_scale, asked.count) == (28, 30.0, 1)
    assert (asked.format, asked.quality) == ("jpeg", 80)


@pytest.mark.parametrize(
    ("fields", "name", "value"),
    [
        ({"guidance": 0}, "guidance_scale", 0.0),
        ({"guidance": 12.5}, "guidance_scale", 12.5),
        ({"guidance": 100}, "guidance_scale", 100.0),
        ({"num_inference_steps": 1}, "steps", 1),
        ({"num_inference_steps": 50.0}, "steps", 50),
        ({"num_outputs": 4}, "count", 4),
        ({"output_quality": 0}, "quality", 0),
        ({"output_quality": 100}, "quality", 100),
        ({"seed": 0}, "seed", 0),
        ({"seed": 2**63 - 1}, "seed", 2**63 - 1),
        ({"output_format": "png"}, "format", "png"),
        ({"output_format": "webp"}, "format", "webp"),
        ({"guidance": None}, "guidance_scale", 30.0),
    ],
)
async def test_a_field_is_drawn_as_it_says(door: Door, fields: dict[str, Any], name: str, value: object) -> None:
    assert getattr(await generation(door, **fields), name) == value


async def test_whether_pictures_are_checked_is_not_the_callers_to_say(door: Door) -> None:
    assert [await generation(door, seed=1, disable_safety_checker=value) for value in (True, False)]


async def test_fields_that_nobody_knows_are_ignored(door: Door) -> None:
    assert await generation(door, lora_weights="x")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"prompt": None}, "prompt: 'nothing' is not allowed; allowed is a text of 1 to 10,000 characters"),
        ({"prompt": "  "}, "prompt: '  '"),
        ({"prompt": "x" * 10_001}, "prompt: 'xxx"),
        ({"prompt": "a\0b"}, "prompt: 'a\\x00b'"),
        ({"prompt": 7}, "prompt: 7"),
        ({"image": None}, "image: 'nothing' is not allowed; allowed is an http or https address"),
        ({"image": ""}, "image: ''"),
        ({"image": 7}, "image: 7"),
        ({"image": ["x"]}, "image: ['x']"),
        ({"image": in_base64(b"not a picture")}, "image: 'bm90"),
        ({"mask": in_base64(b"not a picture")}, "mask: 'bm90"),
        ({"mask": ""}, "mask: ''"),
        ({"mask": in_base64(mask(painted=(0, 0, 0, 0)))}, "mask: 'iVBO"),
        ({"image": "http://169.254.169.254/latest"}, "image: 'http://169.254.169.254/latest'"),
        ({"mask": "http://127.0.0.1:1/"}, "mask: 'http://127.0.0.1:1/'"),
        ({"guidance": -0.1}, "guidance: -0.1 is not allowed; allowed is a number from 0 to 100"),
        ({"guidance": 100.1}, "guidance: 100.1"),
        ({"guidance": "30"}, "guidance: '30'"),
        ({"num_inference_steps": 0}, "num_inference_steps: 0 is not allowed; allowed is a whole number from 1 to 50"),
        ({"num_inference_steps": 51}, "num_inference_steps: 51"),
        ({"num_inference_steps": 2.5}, "num_inference_steps: 2.5"),
        ({"num_outputs": 0}, "num_outputs: 0"),
        ({"num_outputs": 5}, "num_outputs: 5"),
        ({"num_outputs": True}, "num_outputs: True"),
        ({"megapixels": "2"}, 'megapixels: \'2\' is not allowed; allowed is "1", "0.25" or "match_input"'),
        ({"megapixels": 1}, "megapixels: 1"),
        ({"output_format": "gif"}, 'output_format: \'gif\' is not allowed; allowed is "jpg", "webp" or "png"'),
        ({"output_quality": -1}, "output_quality: -1"),
        ({"output_quality": 101}, "output_quality: 101"),
        ({"disable_safety_checker": "no"}, "disable_safety_checker: 'no'"),
        ({"seed": -2}, "seed: -2"),
        ({"seed": 2**63}, f"seed: {2**63}"),
        ({"base64": "yes"}, "base64: 'yes'"),
    ],
)
async def test_what_is_not_allowed_is_refused_by_field_value_and_what_is(
    door: Door, fields: dict[str, Any], said: str
) -> None:
    for url in (URL, "/v2/flux-fill-dev"):
        answer = await door.client.post(url, json=fill(**fields))
        assert answer.status_code == 400
        assert answer.json().keys() == {"error"}
        assert answer.json()["error"].startswith(said), answer.text
        assert "allowed" in answer.json()["error"]
    account = await door.accounts.get(door.account_id)
    assert (account.balance, account.frozen) == (10_000_000, 0)
    assert files(door) == set()


# ---------------------------------------------------------------- the picture


async def test_what_is_white_in_the_mask_is_painted(door: Door) -> None:
    asked = await generation(door, megapixels="match_input")

    assert isinstance(asked.kind, Inpaint)
    assert pixels(door, asked.kind.mask).getbbox() == (0, 0, 48, 64)
    assert pixels(door, asked.kind.image).getpixel((90, 10)) == (0, 128, 128)


async def test_a_mask_may_have_another_size(door: Door) -> None:
    asked = await generation(door, megapixels="match_input", mask=in_base64(mask(24, 16, (0, 0, 12, 16))))

    assert isinstance(asked.kind, Inpaint)
    assert pixels(door, asked.kind.mask).size == (96, 64)


async def test_without_a_mask_what_is_transparent_is_painted(door: Door) -> None:
    image = in_base64(png(hole=(32, 0, 64, 64)))
    asked = await generation(door, megapixels="match_input", image=image, mask=None)

    assert isinstance(asked.kind, Inpaint)
    assert pixels(door, asked.kind.mask).getbbox() == (32, 0, 64, 64)
    opaque = await door.client.post(URL, json=without("mask"))
    assert opaque.status_code == 400
    assert "image: " in opaque.json()["error"]
    assert "nothing in it is transparent, and there is no mask" in opaque.json()["error"]


@pytest.mark.parametrize(
    ("size", "megapixels", "drawn"),
    [
        ((96, 64), "match_input", (96, 64)),
        ((100, 50), "match_input", (96, 64)),
        ((2000, 1000), "match_input", (1440, 704)),
        ((1440, 1440), "match_input", (1440, 1440)),
        ((96, 64), "1", (1248, 832)),
        ((96, 96), "1", (1024, 1024)),
        ((2000, 500), "1", (1440, 352)),
        ((96, 96), "0.25", (512, 512)),
        ((2048, 1024), "0.25", (736, 352)),
    ],
)
async def test_the_result_is_as_large_as_megapixels_says_in_the_shape_of_the_image(
    door: Door, size: tuple[int, int], megapixels: str, drawn: tuple[int, int]
) -> None:
    fields = {"image": in_base64(png(*size)), "mask": in_base64(mask(*size))}
    asked = await generation(door, megapixels=megapixels, **fields)

    assert (asked.width, asked.height) == drawn
    assert [pixels(door, key).size for key in images_of(asked)] == [drawn, drawn]


# ---------------------------------------------------------------- forms


async def test_a_form_says_the_same_as_json(door: Door) -> None:
    texts = {
        "prompt": "Green hair", "guidance": "12.5", "num_inference_steps": "20", "num_outputs": "2", "seed": "7",
        "megapixels": "0.25", "output_format": "png", "output_quality": "60", "disable_safety_checker": "False",
        "base64": "true",
    }  # fmt: skip
    pictures = {"image": ("a.png", png(), "image/png"), "mask": ("b.png", mask(), "image/png")}
    async with door.drawing():
        form = await door.client.post(URL, data=texts, files=pictures)
        answer = await door.client.post(
            URL,
            json=fill(
                guidance=12.5, num_inference_steps=20, num_outputs=2, seed=7, megapixels="0.25", output_format="png",
                output_quality=60, disable_safety_checker=False, base64=True,
            ),
        )  # fmt: skip

    assert form.status_code == 200, form.text
    assert form.json() == answer.json() == {"images": [in_base64(f"a png of seed {seed}".encode()) for seed in (7, 8)]}
    made = [await generation_of(door, each.headers["x-request-id"]) for each in (form, answer)]
    assert [(each.steps, each.guidance_scale, each.quality, each.width) for each in made] == [(20, 12.5, 60, 640)] * 2
    keys = [images_of(each) for each in made]
    assert [pixels(door, key).tobytes() for key in keys[0]] == [pixels(door, key).tobytes() for key in keys[1]]


async def test_a_forms_pictures_may_be_texts_too_and_what_is_left_empty_is_absent(door: Door) -> None:
    fields = {name: (None, text) for name, text in fill(guidance="", seed="", lora="x").items()}
    async with door.drawing():
        answer = await door.client.post(URL, files={**fields, "more": ("", b"")})

    assert answer.status_code == 200, answer.text
    assert (await generation_of(door, answer.headers["x-request-id"])).guidance_scale == 30.0


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"mask": ("b.png", b"x")}, "mask: b'x' is not allowed; it is no PNG, JPEG or WebP picture"),
        ({"image": ("b.png", b"")}, "image: 'nothing'"),
        ({"image": ("b.png", b"x" * 50_001)}, "image: b'xxxx"),
        ({"prompt": ("b.png", b"x" * 60_000)}, "prompt: b'xxx"),
        ({"prompt": (None, "")}, "prompt: 'nothing'"),
        ({"guidance": (None, "much")}, "guidance: 'much' is not allowed; allowed is a number from 0 to 100"),
        ({"guidance": (None, "[1]")}, "guidance: '[1]'"),
        ({"guidance": (None, "NaN")}, "guidance: 'NaN'"),
        ({"guidance": (None, "1e999")}, "guidance: "),
        ({"seed": (None, "9" * 5000)}, "seed: "),
        ({"num_outputs": (None, "true")}, "num_outputs: True"),
        ({"base64": (None, "1")}, "base64: 1"),
        ({"output_format": (None, "gif")}, "output_format: 'gif'"),
    ],
)
async def test_a_wrong_part_is_refused_by_its_name(door: Door, parts: dict[str, Any], said: str) -> None:
    usual = {"prompt": (None, "x"), "image": ("a.png", png()), "mask": ("b.png", mask())}
    answer = await door.client.post(URL, files=usual | parts)

    assert answer.status_code == 400, answer.text
    assert answer.json()["error"].startswith(said), answer.text
    assert len(answer.text) < 400
    assert files(door) == set()


async def test_a_picture_is_given_once(door: Door) -> None:
    twice = [("image", ("a.png", png())), ("image", ("b.png", png()))]
    answer = await door.client.post(URL, data={"prompt": "x"}, files=twice)

    assert (answer.status_code, answer.json()["error"]) == (400, "image: '2 files' is not allowed; allowed is one")


START = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'


@pytest.mark.parametrize(
    ("kind", "content", "status"),
    [
        ("multipart/form-data", START + b"x\r\n--b--\r\n", 400),
        ("multipart/form-data; boundary=", START + b"x\r\n--b--\r\n", 400),
        ("multipart/form-data; boundary=b; charset=\0", START + b"x\r\n--b--\r\n", 400),
        ("multipart/form-data; boundary=b; charset=unicode_escape", b'--b\r\nContent-Disposition: form-data; '
         b'name="prompt"\r\n\r\n\\ud800\r\n' + START + b"x\r\n--b--\r\n", 400),
        ("multipart/form-data; boundary=b", b"", 400),
        ("multipart/form-data; boundary=b", b"\xff\0" * 100, 400),
        ("multipart/form-data; boundary=b", START, 400),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\nx\r\n--b--\r\n", 400),
        ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n' * 65, 400),
        ("multipart/form-data; boundary=b", START.replace(b"image", b"x") * 65 + b"--b--", 400),
        ("multipart/form-data; boundary=b", START + b"x" * 100_000 + b"\r\n--b--\r\n", 413),
        ("MULTIPART/FORM-DATA; boundary=b", START + b"x\r\n--b--\r\n", 400),
        ("application/x-www-form-urlencoded", b"prompt=x", 400),
        ("application/json", b"", 400),
        ("application/json", b"[1]", 400),
        ("application/json", b'{"prompt": "\\ud800"}', 400),
        ("application/json", b'{"seed": ' + b"9" * 5000 + b"}", 400),
        ("application/json", b'{"prompt": "' + b"x" * 100_000 + b'"}', 413),
    ],
)  # fmt: skip
async def test_no_body_is_a_fault_of_ours(door: Door, kind: str, content: bytes, status: int) -> None:
    answer = await door.client.post(URL, content=content, headers={b"Content-Type": kind.encode()})

    assert answer.status_code == status, answer.text
    assert answer.json().keys() == {"error"}


# ---------------------------------------------------------------- refusals


def check_refused(answer: httpx.Response, status: int, *, known: bool = True) -> str:
    """It has the vendor's form, and costs nothing. Returns what it says."""
    assert answer.status_code == status, answer.text
    assert answer.json().keys() == {"error"}
    assert re.fullmatch(r"[0-9a-f-]{36}", answer.headers["x-request-id"])
    assert (answer.headers["x-cost"], answer.headers["x-generation-time"]) == ("0", "0")
    assert ("x-remaining-credits" in answer.headers) == known
    assert "x-seed-value" not in answer.headers
    message: str = answer.json()["error"]
    return message


async def test_every_refusal_has_the_vendors_form_and_number(door: Door) -> None:
    async with door.client_with(None) as nobody, door.client_with("wrong") as wrong:
        for client in (nobody, wrong):
            for answer in (await client.post(URL, json=fill()), await client.get("/v1/credits")):
                assert "API key" in check_refused(answer, 401, known=False)
    elsewhere = await door.client.post(URL, json=fill(), headers={"Origin": "https://evil.test"})
    assert "Origin" in check_refused(elsewhere, 403, known=False)
    other_name = await door.client.post(URL, json=fill(), headers={"Host": "evil.test"})
    assert "Host" in check_refused(other_name, 421, known=False)
    wrong_field = await door.client.post(URL, json=fill(guidance=101))
    assert "guidance" in check_refused(wrong_field, 400)
    bad_key = await door.client.post(URL, json=fill(), headers={"Idempotency-Key": "k" * 256})
    assert "Idempotency-Key" in check_refused(bad_key, 400)
    bad_deadline = await door.client.post(URL, json=fill(), headers={"X-Deadline-Seconds": "0"})
    assert "X-Deadline-Seconds" in check_refused(bad_deadline, 400)


@pytest.mark.parametrize("path", ["/v1/sdxl1.0-txt2img", "/v1/flux-fill-pro", "/v2/sdxl", "/v2/", "/v2", "/v1/a\nb"])
async def test_another_model_is_not_known(door: Door, path: str) -> None:
    url = path.replace("\n", "%0A")
    for answer in (await door.client.post(url, json={}), await door.client.get(url)):
        assert "the model is flux-fill-dev" in check_refused(answer, 404, known=False)


async def test_a_wrong_method_says_which_are_right(door: Door) -> None:
    answer = await door.client.get(URL)

    assert "Method Not Allowed" in check_refused(answer, 405, known=False)
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/flux", "/v1/chat/completions", "/v1/images/generations"])
async def test_paths_of_other_doors_are_left_alone(door: Door, path: str) -> None:
    answer = await door.client.post(path, json={})

    assert "x-request-id" not in answer.headers


async def test_who_cannot_pay_is_told_price_and_balance_and_leaves_no_picture(door: Door) -> None:
    await door.accounts.credit(door.account_id, -0.99)
    answer = await door.client.post(URL, json=fill())

    assert "costs 200000 points and the account has 100000" in check_refused(answer, 406)
    assert answer.headers["x-remaining-credits"] == "0.01"
    assert files(door) == set()


async def test_a_full_queue_says_when_to_come_again_and_leaves_no_picture(door: Door) -> None:
    await door.accounts.credit(door.account_id, 100.0)
    await door.accounts.limit(door.account_id, 1)
    made = [await door.client.post("/v2/flux-fill-dev", json=fill()) for _ in range(52)]

    assert [answer.status_code for answer in made] == [200] * 51 + [429]
    check_refused(made[-1], 429)
    assert int(made[-1].headers["retry-after"]) > 0
    assert files(door) == await door.queue.kept_keys()


async def test_while_the_database_is_gone_it_is_a_502_that_says_when_to_come_again(door: Door) -> None:
    with failing(door, "do_execute"):
        answer = await door.client.post(URL, json=fill())

    check_refused(answer, 502, known=False)
    assert int(answer.headers["retry-after"]) > 0


# ---------------------------------------------------------------- tasks that fail, and callers who do not wait


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (DrawingFailed.code, 500),
        (Abandoned.code, 500),
        (Flagged.code, 400),
        (CancelledByCaller.code, 400),
        (Expired.code, 504),
    ],
)
async def test_a_task_that_fails_costs_nothing_and_says_why(door: Door, code: str, status: int) -> None:
    async with door.drawing(fails=Errored(code, "it is what it is")):
        answer = await door.client.post(URL, json=fill(seed=7))

    assert answer.status_code == status
    assert answer.json() == {"error": "it is what it is"}
    assert answer.headers["x-cost"] == "0"
    assert answer.headers["x-seed-value"] == "7"
    assert answer.headers["x-remaining-credits"] == "1"


async def test_who_has_waited_long_enough_is_told_where_the_task_is(sqlite: Engine, tmp_path: Any) -> None:
    async with open_door(sqlite, tmp_path, wait_seconds=0.2) as door:
        answer = await door.client.post(URL, json=fill(seed=7))

        assert answer.status_code == 504
        assert answer.headers["x-seed-value"] == "7"
        request_id = answer.headers["x-request-id"]
        assert request_id in answer.json()["error"]
        async with door.drawing():
            ended = await _ended(door, request_id)
        assert ended.state is State.COMPLETED
        later = await door.client.get(f"/v2/requests/{request_id}")
        assert later.json()["seed"] == 7


async def _ended(door: Door, request_id: str) -> Task:
    while not (task := await door.queue.get(door.account_id, request_id)).state.is_final:
        await asyncio.sleep(0.01)
    return task


async def _only_task(door: Door) -> Task:
    while not (tasks := await door.queue.open_tasks(door.account_id)):
        await asyncio.sleep(0.01)
    (task,) = tasks
    return task


@pytest.mark.parametrize("is_running", [False, True])
async def test_who_hangs_up_cancels_the_task(each_door: Door, is_running: bool) -> None:
    door = each_door
    line = Line(door, URL, fill())
    task = await _only_task(door)
    held = await door.claimed(task.id) if is_running else None
    line.hung_up.set()
    await asyncio.wait_for(line.answered, 5)

    if held is not None:  # the wish is heeded between two steps
        assert await door.queue.wished_cancelled() == [held]
        await door.queue.finish(held, Errored(CancelledByCaller.code, "as its caller wished"))
    after = await door.queue.get(door.account_id, task.id)
    assert (after.state, after.error_code) == (State.FAILED, CancelledByCaller.code)
    account = await door.accounts.get(door.account_id)
    assert (account.balance, account.frozen) == (10_000_000, 0)


async def test_a_named_request_goes_on_for_whoever_asks_again(door: Door) -> None:
    line = Line(door, URL, fill(seed=7), **{"Idempotency-Key": "my-request-1"})
    task = await _only_task(door)
    line.hung_up.set()
    await asyncio.wait_for(line.answered, 5)

    async with door.drawing():
        answer = await door.client.post(URL, json=fill(seed=7), headers=ONCE)
    assert answer.content == b"a jpeg of seed 7"
    assert answer.headers["x-request-id"] == task.id


# ---------------------------------------------------------------- sent twice


async def test_sent_twice_it_is_drawn_once_charged_once_and_answered_alike(each_door: Door) -> None:
    door = each_door
    async with door.drawing():
        answers = [await door.client.post(URL, json=fill(), headers=ONCE) for _ in range(3)]

    assert {answer.status_code for answer in answers} == {200}
    assert len({(answer.content, answer.headers["x-request-id"]) for answer in answers}) == 1
    assert (await door.accounts.get(door.account_id)).balance == 10_000_000 - PRICE
    assert len(files(door)) == 3  # the image, the mask and the result


async def test_a_form_that_is_sent_twice_is_one_too(door: Door) -> None:
    pictures = {"image": ("a.png", png()), "mask": ("b.png", mask())}
    answers = [
        await door.client.post("/v2/flux-fill-dev", data={"prompt": "x"}, files=pictures, headers=ONCE) for _ in "ab"
    ]
    pictures["mask"] = ("b.png", mask(painted=(0, 0, 10, 10)))
    other = await door.client.post("/v2/flux-fill-dev", data={"prompt": "x"}, files=pictures, headers=ONCE)

    assert answers[0].content == answers[1].content
    assert "came before with another body" in check_refused(other, 422)


async def test_another_body_or_another_path_with_the_same_key_is_refused(door: Door) -> None:
    first = await door.client.post("/v2/flux-fill-dev", json=fill(), headers=ONCE)
    others = [
        await door.client.post("/v2/flux-fill-dev", json=fill(seed=1), headers=ONCE),
        await door.client.post(URL, json=fill(), headers=ONCE),
    ]

    assert first.status_code == 200
    for other in others:
        assert "my-request-1" in check_refused(other, 422)


async def test_what_was_refused_is_not_remembered(door: Door) -> None:
    refused = await door.client.post(URL, json=fill(image="no picture"), headers=ONCE)
    async with door.drawing():
        answer = await door.client.post(URL, json=fill(), headers=ONCE)

    assert (refused.status_code, answer.status_code) == (400, 200)


async def test_the_pictures_of_an_answer_that_comes_too_late_have_expired(door: Door) -> None:
    async with door.drawing():
        first = await door.client.post(URL, json=fill(), headers=ONCE)
        task = await door.queue.get(door.account_id, first.headers["x-request-id"])
        door.shelf.delete(task.outputs[0].key)
        again = await door.client.post(URL, json=fill(), headers=ONCE)

    assert again.status_code == 404
    assert "have expired" in again.json()["error"]


async def test_of_twenty_twins_at_the_same_time_at_two_servers_one_is_drawn(each_door: Door) -> None:
    door = each_door
    another = httpx.AsyncClient(
        transport=httpx.ASGITransport(create_app(door.context)),
        base_url="http://fluxserve.test",
        headers={"X-API-Key": KEY},
    )

    async def twin(client: httpx.AsyncClient) -> bytes:
        while True:
            answer = await client.post(URL, json=fill(seed=7), headers=ONCE)
            if answer.status_code != 409:
                assert answer.status_code == 200, answer.text
                return answer.content
            check_refused(answer, 409)
            assert int(answer.headers["retry-after"]) > 0
            await asyncio.sleep(0.002)

    async with door.drawing():
        answers = await asyncio.gather(*(twin(client) for client in [door.client, another] * 10))
    await another.aclose()

    assert set(answers) == {b"a jpeg of seed 7"}
    assert (await door.accounts.get(door.account_id)).balance == 10_000_000 - PRICE
    assert len(files(door)) == 3  # those of the one that came too late at the other server are let go


# ---------------------------------------------------------------- its pages


async def test_its_pages_tell_both_kinds_of_body_and_every_header(door: Door) -> None:
    told = (await door.client.get("/segmind/openapi.json")).json()["paths"][URL]["post"]

    assert set(told["requestBody"]["content"]) == {"application/json", "multipart/form-data"}
    assert set(told["responses"]["200"]["headers"]) == set(HEADERS)
    page = await door.client.get("/segmind/docs")
    assert (page.status_code, "/segmind/openapi.json" in page.text) == (200, True)
