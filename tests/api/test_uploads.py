"""Pictures that are uploaded for a day, to be asked for by their address."""

import asyncio
import base64
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sqlalchemy import Engine

from fluxserve.api.dialects.piapi.door import LARGEST_UPLOAD
from fluxserve.dispatch import Upkeep
from fluxserve.domain.generation import ImageToImage
from fluxserve.domain.task import Repeatable
from fluxserve.tasks import Rules
from tests.api.conftest import PUBLIC_URL, Door, open_door

pytestmark = pytest.mark.anyio

UPLOAD = "/api/ephemeral_resource"
DAY = 24 * 3600.0


def picture(kind: str = "PNG") -> bytes:
    file = BytesIO()
    Image.new("RGB", (96, 64), "teal").save(file, kind)
    return file.getvalue()


def in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def uploaded(door: Door, data: str = in_base64(picture())) -> str:
    """The path that the picture has now."""
    answer = await door.client.post(UPLOAD, json={"file_name": "x.png", "file_data": data})
    assert answer.status_code == 200, answer.text
    url: str = answer.json()["data"]["url"]
    assert answer.json() == {"code": 200, "data": {"url": url}, "message": "success"}
    assert url.startswith(f"{PUBLIC_URL}/files/")
    return url.removeprefix(PUBLIC_URL)


def over(path: str) -> dict[str, Any]:
    return {
        "model": "Qubico/flux1-dev",
        "task_type": "img2img",
        "input": {"prompt": "a bear", "image": f"{PUBLIC_URL}{path}"},
    }


@pytest.mark.parametrize(
    "data",
    [
        in_base64(picture()),
        f"data:image/png;base64,{in_base64(picture())}",
        f"data:image/jpeg;base64,{in_base64(picture('JPEG'))}",
        in_base64(picture("WEBP")),
        base64.encodebytes(picture()).decode(),
    ],
    ids=["base64", "a data URI", "a JPEG", "a WebP", "base64 in lines"],
)
async def test_an_upload_is_served_as_a_png_with_safe_headers(door: Door, data: str) -> None:
    path = await uploaded(door, data)

    async with door.client_with(None) as nobody:
        answer = await nobody.get(path)

    assert answer.status_code == 200
    with Image.open(BytesIO(answer.content), formats=("PNG",)) as served:
        assert served.size == (96, 64)
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert answer.headers["content-disposition"].startswith("inline; ")


async def test_every_upload_has_an_address_that_nobody_guesses(door: Door) -> None:
    paths = {await uploaded(door) for _ in range(3)}

    assert len(paths) == 3
    assert {len(Path(path).stem) for path in paths} == {32}


async def test_an_upload_is_drawn_from_by_its_address(door: Door) -> None:
    path = await uploaded(door)
    answer = await door.client.post("/api/v1/task", json=over(path))
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"]["input"]["image"] == f"{PUBLIC_URL}{path}"
    task = await door.queue.get(door.account_id, answer.json()["data"]["task_id"])
    assert isinstance(task.generation.kind, ImageToImage)
    assert door.shelf.path(task.generation.kind.image).read_bytes() == (await door.client.get(path)).content


async def test_a_task_outlives_the_upload_that_it_is_drawn_from(door: Door) -> None:
    path = await uploaded(door)
    door.clock.ahead = DAY - 60
    answer = await door.client.post("/api/v1/task", json=over(path))
    task = await door.queue.get(door.account_id, answer.json()["data"]["task_id"])
    assert isinstance(task.generation.kind, ImageToImage)

    door.clock.ahead = DAY + 1
    await Upkeep(
        queue=door.queue, completions=door.context.switchboard.completions, shelf=door.shelf, every=3600
    ).one_pass()

    assert (await door.client.get(path)).status_code == 404
    assert door.shelf.path(task.generation.kind.image).exists()


async def test_an_upload_is_there_for_a_day_and_then_gone_and_swept(each_door: Door, tmp_path: Path) -> None:
    door = each_door
    path = await uploaded(door)
    upkeep = Upkeep(queue=door.queue, completions=door.context.switchboard.completions, shelf=door.shelf, every=3600)

    door.clock.ahead = DAY - 5
    await upkeep.one_pass()
    await upkeep.clear_up(untouched_seconds=0)
    assert (await door.client.get(path)).status_code == 200

    door.clock.ahead = DAY + 1
    assert (await door.client.get(path)).status_code == 404
    refused = await door.client.post("/api/v1/task", json=over(path))
    assert (refused.status_code, "expired" in refused.json()["message"]) == (400, True)
    await upkeep.one_pass()
    assert [file for file in (tmp_path / "pictures").rglob("*") if file.is_file()] == []
    assert await door.queue.expired_uploads(10) == []


@pytest.mark.parametrize("name", ["x.png", "ä 🐱.png", "n" * 128, "../../etc/passwd"])
async def test_a_name_is_any_text_and_leads_nowhere(door: Door, name: str) -> None:
    body = {"file_name": name, "file_data": in_base64(picture())}

    assert (await door.client.post(UPLOAD, json=body)).status_code == 200
    assert len(await door.queue.kept_keys()) == 1


NO_PICTURE = in_base64(b"not a picture")


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("file_name", None, "at most 128 characters"),
        ("file_name", "", "at most 128 characters"),
        ("file_name", "n" * 129, "at most 128 characters"),
        ("file_name", "a\0b", "at most 128 characters"),
        ("file_name", 7, "at most 128 characters"),
        ("file_data", None, "PNG, JPEG or WebP"),
        ("file_data", "", "PNG, JPEG or WebP"),
        ("file_data", 7, "PNG, JPEG or WebP"),
        ("file_data", "a cat", "PNG, JPEG or WebP"),
        ("file_data", "AAAA=AAAA", "PNG, JPEG or WebP"),
        ("file_data", NO_PICTURE, "PNG, JPEG or WebP"),
        ("file_data", f"data:image/png;base64,{NO_PICTURE}", "PNG, JPEG or WebP"),
        ("file_data", in_base64(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "PNG, JPEG or WebP"),
        ("file_data", "http://127.0.0.1/picture.png", "PNG, JPEG or WebP"),
    ],
)
async def test_what_is_no_upload_is_refused_and_leaves_nothing(
    door: Door, tmp_path: Path, field: str, value: object, allowed: str
) -> None:
    body = {"file_name": "x.png", "file_data": in_base64(picture()), field: value}

    answer = await door.client.post(UPLOAD, json=body)

    assert answer.status_code == 400
    assert answer.json().keys() == {"code", "data", "message"}
    assert answer.json()["message"].startswith(f"{field}: ")
    assert allowed in answer.json()["message"]
    assert [file for file in (tmp_path / "pictures").rglob("*") if file.is_file()] == []


@pytest.fixture
async def wide(sqlite: Engine, tmp_path: Path) -> AsyncIterator[Door]:
    """A door that reads bodies as large as the settings' default."""
    async with open_door(sqlite, tmp_path, largest_body=32_000_000) as door:
        yield door


@pytest.mark.parametrize("encode", [base64.b64encode, base64.encodebytes], ids=["in one line", "in many lines"])
async def test_an_upload_may_have_ten_megabytes_and_not_a_byte_more(wide: Door, encode: Any) -> None:
    largest = picture().ljust(LARGEST_UPLOAD, b"\0")  # what comes after a picture's end is not looked at

    assert await uploaded(wide, encode(largest).decode())
    answer = await wide.client.post(UPLOAD, json={"file_name": "x", "file_data": encode(largest + b"\0").decode()})

    assert answer.status_code == 400
    assert "more than the 10000000 bytes" in answer.json()["message"]


async def test_nothing_is_uploaded_without_a_key(door: Door) -> None:
    async with door.client_with(None) as nobody:
        answer = await nobody.post(UPLOAD, json={"file_name": "x.png", "file_data": in_base64(picture())})

    assert answer.status_code == 401
    assert await door.queue.kept_keys() == set()


async def test_an_upload_that_is_sent_again_is_one_and_another_body_is_refused(door: Door) -> None:
    key, body = {"Idempotency-Key": "once"}, {"file_name": "x.png", "file_data": in_base64(picture())}
    first = await door.client.post(UPLOAD, json=body, headers=key)
    again = await door.client.post(UPLOAD, json=body, headers=key)
    other = await door.client.post(UPLOAD, json={**body, "file_name": "y.png"}, headers=key)
    task = await door.client.post("/api/v1/task", json=over("/files/x.png"), headers=key)

    assert (first.status_code, again.content) == (200, first.content)
    assert (other.status_code, task.status_code) == (422, 422)
    assert len(await door.queue.kept_keys()) == 1


async def test_of_twins_that_come_to_the_queue_together_one_makes_the_upload(each_door: Door) -> None:
    door, repeatable = each_door, Repeatable("once", bytes(32))
    upload_ids = await asyncio.gather(
        *(door.queue.add_upload(door.account_id, f"{n:032}", f"{n:032}.png", 60, repeatable) for n in range(5))
    )

    assert len(set(upload_ids)) == 1


async def test_an_account_has_so_many_uploads_at_once_and_is_told_when_there_is_room(
    sqlite: Engine, tmp_path: Path
) -> None:
    async with open_door(sqlite, tmp_path, rules=Rules(most_uploads=2)) as door:
        await uploaded(door)
        door.clock.ahead = 3600
        await uploaded(door)
        body = {"file_name": "x.png", "file_data": in_base64(picture())}
        refused = await door.client.post(UPLOAD, json=body, headers={"Idempotency-Key": "third"})
        async with door.stranger() as stranger:
            theirs = await stranger.post(UPLOAD, json=body)

        assert (refused.status_code, theirs.status_code) == (429, 200)
        assert refused.json()["message"].startswith("uploads: 2 of this account are kept already")
        assert 0 < int(refused.headers["retry-after"]) <= DAY - 3600 + 1
        assert len(list((tmp_path / "pictures").rglob("*.png"))) == 3  # what was refused is not kept

        door.clock.ahead = DAY + 1
        await Upkeep(
            queue=door.queue, completions=door.context.switchboard.completions, shelf=door.shelf, every=3600
        ).one_pass()
        again = await door.client.post(UPLOAD, json=body, headers={"Idempotency-Key": "third"})
        assert again.status_code == 200
