"""The Images API as its callers see it, on a real queue whose tasks end as a test says."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO
from typing import Any

import httpx2 as httpx
import pytest
from PIL import Image
from sqlalchemy import Engine

from fluxserve.domain.generation import Edit, Inpaint, TextToImage
from fluxserve.domain.task import Completed, Errored, Output, State, Task
from fluxserve.tasks import Held
from tests.api.conftest import Door, Line, open_door

pytestmark = pytest.mark.anyio

GENERATE, EDIT = "/v1/images/generations", "/v1/images/edits"
DOLLAR = 10_000_000


def png(size: tuple[int, int] = (96, 64), colour: object = "teal", mode: str = "RGB") -> bytes:
    file = BytesIO()
    Image.new(mode, size, colour).save(file, "PNG")  # type: ignore[arg-type]
    return file.getvalue()


def mask(size: tuple[int, int] = (96, 64)) -> bytes:
    image = Image.new("RGBA", size, "black")
    image.paste((0, 0, 0, 0), (0, 0, 32, 32))
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


async def taken_up(door: Door) -> Held:
    """The next task, once there is one, as a worker has it."""
    async with asyncio.timeout(5):
        while not (waiting := await door.queue.waiting(1)):
            await asyncio.sleep(0.005)
    (task,) = await door.queue.claim([waiting[0].task_id])
    return Held(task.id, task.attempt)


async def task_of(door: Door, held: Held) -> Task:
    return await door.queue.get(door.account_id, held.task_id)


async def completed(door: Door, held: Held, count: int = 1) -> None:
    task = await task_of(door, held)
    outputs = []
    for number in range(count):
        key = f"{held.task_id}-{number}.{task.generation.format}"
        door.shelf.put(key, f"picture {number}".encode())
        outputs.append(Output(f"{held.task_id[:30]}{number:02}", key, "image/png", 9, 64, 64, number, 1e12))
    await door.queue.finish(held, Completed(tuple(outputs)))


@asynccontextmanager
async def asking(door: Door, path: str, **request: Any) -> AsyncIterator["asyncio.Task[httpx.Response]"]:
    sending = asyncio.create_task(door.client.post(path, **request))
    try:
        yield sending
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def drawn(door: Door, path: str = GENERATE, count: int = 1, **request: Any) -> tuple[dict[str, Any], Task]:
    """The answer to a request whose task is completed at once, and the task."""
    async with asking(door, path, **request) as sending:
        held = await taken_up(door)
        await completed(door, held, count)
        answer = await sending
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-task-id"] == held.task_id
    return answer.json(), await task_of(door, held)


async def test_a_picture_is_answered_as_base64_with_what_was_settled_for_it(each_door: Door) -> None:
    answer, task = await drawn(each_door, json={"model": "gpt-image-1", "prompt": "a cat"})

    assert answer == {
        "created": int(task.created_at), "background": "opaque", "output_format": "png", "quality": "medium",
        "size": "1024x1024", "data": [{"b64_json": base64.b64encode(b"picture 0").decode()}],
        "usage": {
            "input_tokens": 2, "output_tokens": 1056, "total_tokens": 1058,
            "input_tokens_details": {"image_tokens": 0, "text_tokens": 2},
        },
    }  # fmt: skip
    generation = task.generation
    assert generation.kind == TextToImage("a cat")
    assert (generation.model, generation.steps, generation.width, generation.height) == ("flux1-dev", 20, 1024, 1024)
    assert task.price == 420_000


@pytest.mark.parametrize(
    ("asked", "model", "steps", "size", "price"),
    [
        ({"quality": "low"}, "flux1-schnell", 4, (1024, 1024), 110_000),
        ({"quality": "low", "size": "1536x1024"}, "flux1-schnell", 4, (1536, 1024), 160_000),
        ({"quality": "auto", "size": "auto"}, "flux1-dev", 20, (1024, 1024), 420_000),
        ({"quality": "high"}, "flux1-dev", 28, (1024, 1024), 1_670_000),
        ({"quality": "high", "size": "1024x1536"}, "flux1-dev", 28, (1024, 1536), 2_500_000),
        ({"quality": "hd", "size": "256x512"}, "flux1-dev", 28, (256, 512), 2_500_000),
        ({"model": "gpt-4o-image"}, "flux1-dev", 20, (1024, 1024), 200_000),
        ({"model": "flux1-schnell", "quality": "high"}, "flux1-schnell", 4, (1024, 1024), 20_000),
    ],
)
async def test_quality_and_size_say_what_is_drawn_and_what_it_costs(
    door: Door, asked: dict[str, Any], model: str, steps: int, size: tuple[int, int], price: int
) -> None:
    answer, task = await drawn(door, json={"prompt": "a cat", **asked})

    generation = task.generation
    assert (generation.model, generation.steps) == (model, steps)
    assert (generation.width, generation.height) == size
    assert answer["size"] == f"{size[0]}x{size[1]}"
    assert task.price == price


async def test_several_pictures_of_a_format_and_quality(door: Door) -> None:
    body = {"prompt": "a cat", "n": 3, "output_format": "webp", "output_compression": 55, "quality": "low"}
    answer, task = await drawn(door, count=3, json=body)

    assert [base64.b64decode(each["b64_json"]) for each in answer["data"]] == [
        b"picture 0", b"picture 1", b"picture 2"
    ]  # fmt: skip
    assert (task.generation.count, task.generation.format, task.generation.quality) == (3, "webp", 55)
    assert task.price == 330_000
    assert answer["usage"]["output_tokens"] == 3 * 272


async def test_an_edit_is_drawn_from_its_picture_and_as_the_nearest_size(door: Door) -> None:
    answer, task = await drawn(
        door, EDIT, data={"prompt": "make it red", "n": "1"}, files={"image": ("a.png", png(), "image/png")}
    )

    assert isinstance(task.generation.kind, Edit)
    assert (task.generation.width, task.generation.height) == (1536, 1024)
    assert (task.generation.model, task.generation.guidance_scale) == ("flux1-dev-advanced", 2.5)
    assert answer["usage"]["input_tokens_details"] == {"image_tokens": 65 + 2 * 129, "text_tokens": 3}


async def test_several_pictures_are_shown_side_by_side(door: Door) -> None:
    files = [("image[]", (f"{name}.png", png((64, 64), name), "image/png")) for name in ("red", "blue")]
    async with asking(door, EDIT, data={"prompt": "both together"}, files=files) as sending:
        held = await taken_up(door)
        task = await task_of(door, held)
        assert isinstance(task.generation.kind, Edit)
        with Image.open(door.shelf.path(task.generation.kind.image)) as shown:
            assert shown.size == (128, 64)
            assert [shown.getpixel((x, 32)) for x in (10, 100)] == [(255, 0, 0), (0, 0, 255)]
        await completed(door, held)
        assert (await sending).status_code == 200


async def test_a_mask_says_where_to_draw(door: Door) -> None:
    files = {"image": ("a.png", png(), "image/png"), "mask": ("m.png", mask(), "image/png")}
    async with asking(door, EDIT, data={"prompt": "a hat", "size": "512x512"}, files=files) as sending:
        held = await taken_up(door)
        task = await task_of(door, held)
        kind = task.generation.kind
        assert isinstance(kind, Inpaint)
        assert task.generation.guidance_scale == 30
        size = (task.generation.width, task.generation.height)
        assert size == (624, 416)  # of the picture's shape, with about so many pixels
        with Image.open(door.shelf.path(kind.mask)) as painted, Image.open(door.shelf.path(kind.image)) as shown:
            assert painted.size == shown.size == size
            assert painted.getbbox() == (0, 0, 208, 208)
        await completed(door, held)
        assert (await sending).json()["size"] == "624x416"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "prompt"),
        ({"prompt": " "}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"prompt": "x" * 32_001}, "prompt"),
        ({"prompt": "a", "model": "dall-e-9"}, "model"),
        ({"prompt": "a", "n": 0}, "n"),
        ({"prompt": "a", "n": 11}, "n"),
        ({"prompt": "a", "n": "many"}, "n"),
        ({"prompt": "a", "size": "1024"}, "size"),
        ({"prompt": "a", "size": "2048x2048"}, "size"),
        ({"prompt": "a", "size": "10x10"}, "size"),
        ({"prompt": "a", "size": "1024x-1"}, "size"),
        ({"prompt": "a", "quality": "best"}, "quality"),
        ({"prompt": "a", "background": "transparent"}, "background"),
        ({"prompt": "a", "output_format": "gif"}, "output_format"),
        ({"prompt": "a", "output_compression": 50}, "output_compression"),
        ({"prompt": "a", "output_compression": 101, "output_format": "jpeg"}, "output_compression"),
        ({"prompt": "a", "partial_images": 2}, "partial_images"),
        ({"prompt": "a", "partial_images": 4, "stream": True}, "partial_images"),
        ({"prompt": "a", "moderation": "none"}, "moderation"),
    ],
)
async def test_what_is_not_allowed_is_refused_by_name_value_and_what_is(
    door: Door, body: dict[str, Any], field: str
) -> None:
    answer = await door.client.post(GENERATE, json=body)

    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", field, "invalid_value")
    assert error["message"].startswith(f"{field}: ")
    assert "allowed" in error["message"]
    assert (await door.accounts.get(door.account_id)).frozen == 0


@pytest.mark.parametrize(
    ("files", "field"),
    [
        ({}, "image"),
        ({"image": ("a.png", b"no picture", "image/png")}, "image"),
        ({"image": ("a.png", png(), "image/png"), "mask": ("m.png", png(), "image/png")}, "mask"),
        ({"image": ("a.png", png(), "image/png"), "mask": ("m.png", mask((32, 32)), "image/png")}, "mask"),
    ],
    ids=["none", "no picture", "a mask without a hole", "a mask of another size"],
)
async def test_an_edit_without_what_it_needs_is_refused_and_leaves_nothing(
    door: Door, files: dict[str, Any], field: str
) -> None:
    answer = await door.client.post(EDIT, data={"prompt": "a hat"}, files=files or {"other": b"x"})

    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == field
    assert list(door.shelf._folder.rglob("*.png")) == []
    assert (await door.accounts.get(door.account_id)).frozen == 0


async def test_a_body_that_is_no_form_is_refused(door: Door) -> None:
    for content, kind in (
        (b"{}", "application/json"),
        (b"--x\r\nbroken", "multipart/form-data; boundary=x"),
        (b"", ""),
    ):
        answer = await door.client.post(EDIT, content=content, headers={"Content-Type": kind})
        assert answer.status_code == 400, (kind, answer.text)
        assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("code", "status", "kind", "told"),
    [
        ("flagged", 400, "image_generation_user_error", "moderation_blocked"),
        ("drawing_failed", 500, "server_error", "drawing_failed"),
        ("cancelled", 400, "invalid_request_error", "cancelled"),
    ],
)
async def test_a_task_that_fails_is_an_error_and_costs_nothing(
    door: Door, code: str, status: int, kind: str, told: str
) -> None:
    async with asking(door, GENERATE, json={"prompt": "a cat"}) as sending:
        await door.queue.finish(await taken_up(door), Errored(code, "it was so"))
        answer = await sending

    assert answer.status_code == status
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == (kind, told)
    assert error["message"].startswith("it was so")
    account = await door.accounts.get(door.account_id)
    assert (account.balance, account.frozen) == (DOLLAR, 0)


async def test_a_wrong_key_and_an_empty_purse_are_told_as_the_sdk_knows_them(door: Door) -> None:
    async with door.client_with("wrong") as nobody:
        unknown = await nobody.post(GENERATE, json={"prompt": "a cat"})
    async with door.stranger(credits_usd=0.01) as poor:
        broke = await poor.post(GENERATE, json={"prompt": "a cat"})

    assert (unknown.status_code, unknown.json()["error"]["code"]) == (401, "invalid_api_key")
    assert (broke.status_code, broke.json()["error"]["code"]) == (429, "insufficient_quota")
    assert broke.json()["error"]["type"] == "insufficient_quota"
    assert broke.headers["x-should-retry"] == "false"


async def test_who_waits_too_long_is_told_the_task_which_goes_on(sqlite: Engine, tmp_path: Any) -> None:
    async with open_door(sqlite, tmp_path, wait_seconds=0.05) as door:
        answer = await door.client.post(GENERATE, json={"prompt": "a cat"})
        assert answer.status_code == 504
        assert answer.headers["x-should-retry"] == "false"
        held = await taken_up(door)
        assert held.task_id in answer.json()["error"]["message"]
        assert (await door.data(held.task_id))["status"] == "processing"
        await completed(door, held)
        assert (await door.data(held.task_id))["output"]["image_url"]


async def test_the_same_key_is_the_same_picture_and_price(each_door: Door) -> None:
    door, key = each_door, {"Idempotency-Key": "once"}
    first, task = await drawn(door, json={"prompt": "a cat"}, headers=key)

    again = await door.client.post(GENERATE, json={"prompt": "a cat"}, headers=key)
    other = await door.client.post(GENERATE, json={"prompt": "a dog"}, headers=key)

    assert again.json() == first
    assert again.headers["x-task-id"] == task.id
    assert other.status_code == 422
    assert (await door.accounts.get(door.account_id)).balance == DOLLAR - task.price


# ---------------------------------------------------------------- streams


async def told(door: Door, path: str, **request: Any) -> list[tuple[str, dict[str, Any]]]:
    answer = await door.client.post(path, **request)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    blocks = [block for block in answer.text.split("\n\n") if block and not block.startswith(":")]
    pairs = [block.split("\n", 1) for block in blocks]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in pairs]


async def test_looks_at_the_unfinished_picture_come_before_it(each_door: Door) -> None:
    door = each_door

    async def draw() -> Task:
        held = await taken_up(door)
        for step in (1, 2, 3):
            await door.queue.progress(held, step, 4, f"look {step}".encode() if step < 3 else b"")
            await asyncio.sleep(0.05)
        await completed(door, held)
        return await task_of(door, held)

    body = {"prompt": "a cat", "stream": True, "partial_images": 2, "output_format": "jpeg"}
    events, task = await asyncio.gather(told(door, GENERATE, json=body), draw())

    assert task.generation.previews == 2
    assert [name for name, _ in events] == [
        "image_generation.partial_image", "image_generation.partial_image", "image_generation.completed"
    ]  # fmt: skip
    assert [base64.b64decode(data["b64_json"]) for _, data in events] == [b"look 1", b"look 2", b"picture 0"]
    for name, data in events:
        assert data["type"] == name
        assert (data["size"], data["quality"], data["background"], data["output_format"]) == (
            "1024x1024", "medium", "opaque", "jpeg"
        )  # fmt: skip
    assert [data.get("partial_image_index") for _, data in events] == [0, 1, None]
    assert events[2][1]["usage"]["output_tokens"] == 1056


async def test_a_stream_of_an_edit_has_names_of_its_own_and_tells_of_failure(door: Door) -> None:
    async def fail() -> None:
        await door.queue.finish(await taken_up(door), Errored("flagged", "it was flagged"))

    form = {"data": {"prompt": "a hat", "stream": "true"}, "files": {"image": ("a.png", png(), "image/png")}}
    events, _ = await asyncio.gather(told(door, EDIT, **form), fail())

    ((name, data),) = events
    assert name == "error"
    assert data["error"]["code"] == "moderation_blocked"


async def hung_up(door: Door, *, stream: bool, **headers: str) -> Held:
    """A request whose caller hangs up once it is being drawn; what of it a worker then holds."""
    line = Line(door, GENERATE, {"prompt": "a cat", "stream": stream}, **headers)
    held = await taken_up(door)
    line.hung_up.set()
    await asyncio.wait_for(line.answered, 5)
    return held


@pytest.mark.parametrize("stream", [False, True])
async def test_who_hangs_up_cancels_and_pays_nothing(door: Door, stream: bool) -> None:
    held = await hung_up(door, stream=stream)

    async with asyncio.timeout(5):
        while not await door.queue.wished_cancelled():
            await asyncio.sleep(0.01)
    await door.queue.finish(held, Errored("cancelled", "cancelled by the caller"))
    assert (await task_of(door, held)).state is State.FAILED
    account = await door.accounts.get(door.account_id)
    assert (account.balance, account.frozen) == (DOLLAR, 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_who_may_ask_again_does_not_cancel_by_hanging_up(door: Door, stream: bool) -> None:
    held = await hung_up(door, stream=stream, **{"Idempotency-Key": "a name of the caller's own"})

    assert await door.queue.wished_cancelled() == []
    assert (await task_of(door, held)).state is State.PROCESSING
