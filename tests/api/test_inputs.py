"""A caller's picture comes as an address, a data URI or base64; what is none of them is refused and costs nothing."""

import asyncio
import base64
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from threading import Thread
from typing import Any

import pytest
from PIL import Image

from fluxserve.api.inputs import Places
from fluxserve.domain.generation import ImageToImage, TextToImage
from fluxserve.domain.task import Completed, Output
from tests.api.conftest import Door

pytestmark = pytest.mark.anyio


def png(width: int = 96, height: int = 64) -> bytes:
    file = BytesIO()
    Image.new("RGB", (width, height), "teal").save(file, "PNG")
    return file.getvalue()


IN_BASE64 = base64.b64encode(png()).decode()
NO_PICTURE = base64.b64encode(b"not a picture").decode()


def bear(image: object = IN_BASE64, **fields: object) -> dict[str, Any]:
    return {
        "model": "Qubico/flux1-dev",
        "task_type": "img2img",
        "input": {"prompt": "a bear", "image": image, **fields},
    }


@pytest.fixture
def web() -> Iterator[str]:
    """An address where /picture is one, and anything else is not there."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/picture"
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(png() if found else b"")

        def log_message(self, *_arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


async def _drawn_from(door: Door, body: dict[str, Any]) -> bytes:
    """Creates the task; returns the picture that a worker would be given."""
    answer = await door.client.post("/api/v1/task", json=body)
    assert answer.status_code == 200, answer.text
    task = await door.queue.get(door.account_id, answer.json()["data"]["task_id"])
    assert isinstance(task.generation.kind, ImageToImage)
    assert (task.generation.width, task.generation.height) == (96, 64)
    return door.shelf.path(task.generation.kind.image).read_bytes()


async def test_base64_a_data_uri_and_an_address_all_bring_the_same_picture(door: Door, web: str) -> None:
    pictures = [
        await _drawn_from(door, bear(image))
        for image in (
            IN_BASE64,
            f"{IN_BASE64[:40]}\n{IN_BASE64[40:]}",
            f"data:image/png;base64,{IN_BASE64}",
            f"DATA:;base64,{IN_BASE64}",
            f"{web}/picture",
        )
    ]
    assert len(set(pictures)) == 1
    assert Image.open(BytesIO(pictures[0])).getpixel((1, 1)) == (0, 128, 128)


async def test_a_picture_of_ours_is_taken_by_its_address(door: Door) -> None:
    task_id = await door.create()
    door.shelf.put("ours.png", png())
    await door.end(task_id, Completed((Output("a" * 32, "ours.png", "image/png", 3, 96, 64, 1, 1e12),)))
    assert await _drawn_from(door, bear(f"http://pictures.test/files/{'a' * 32}.png"))


async def test_denoise_is_seven_tenths_if_absent(door: Door) -> None:
    strengths = []
    for fields in ({}, {"denoise": 1}, {"denoise": 0.05}):
        answer = await door.client.post("/api/v1/task", json=bear(**fields))
        task = await door.queue.get(door.account_id, answer.json()["data"]["task_id"])
        assert isinstance(task.generation.kind, ImageToImage)
        strengths.append(task.generation.kind.denoising_strength)
    assert strengths == [0.7, 1.0, 0.05]


async def test_the_echo_repeats_an_address_but_no_megabytes(door: Door, web: str) -> None:
    echoed = [
        (await door.client.post("/api/v1/task", json=bear(image))).json()["data"]["input"]["image"]
        for image in (f"{web}/picture", IN_BASE64)
    ]
    assert echoed == [f"{web}/picture", ""]


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (None, "input.image"),
        ("", "input.image"),
        (7, "input.image"),
        ("a cat", "data URI or base64"),
        ("AAAA=AAAA", "data URI or base64"),
        ("data:image/png;base64,", "data URI or base64"),
        ("data:image/png,rawbytes", "data URI or base64"),
        (NO_PICTURE, "no PNG, JPEG or WebP"),
        (base64.b64encode(png(15, 15)).decode(), "at least 16"),
        ("A" * 80_000, "more than the 50000 bytes"),
        ("ftp://example.org/a.png", "data URI or base64"),
        ("http://169.254.169.254/latest/meta-data", "public internet"),
        ("http://nowhere.invalid/a.png", "not known"),
        (f"http://pictures.test/files/{'b' * 32}.png", "expired"),
    ],
)
async def test_what_is_no_picture_is_refused_and_costs_nothing(door: Door, image: object, why: str) -> None:
    before = await door.accounts.get(door.account_id)
    answer = await door.client.post("/api/v1/task", json=bear(image))
    assert answer.status_code == 400
    assert answer.json()["message"].startswith("input.image: ")
    assert why in answer.json()["message"]
    assert len(answer.json()["message"]) < 500
    assert await door.accounts.get(door.account_id) == before
    assert _files(door) == []


async def test_an_address_that_is_not_there_says_so(door: Door, web: str) -> None:
    answer = await door.client.post("/api/v1/task", json=bear(f"{web}/gone"))
    assert answer.status_code == 400
    assert "status 404" in answer.json()["message"]


async def test_no_picture_is_fetched_for_a_request_that_is_wrong_anyway(door: Door) -> None:
    answer = await door.client.post("/api/v1/task", json=bear("http://nowhere.invalid/a.png", steps=1000))
    assert answer.json()["message"].startswith("input.steps")


async def test_a_picture_is_not_kept_when_its_task_is_refused(door: Door) -> None:
    while (await door.client.post("/api/v1/task", json=bear())).status_code == 200:
        pass
    kept = await door.queue.kept_keys()
    assert set(_files(door)) == kept


async def test_text_to_image_ignores_a_picture(door: Door) -> None:
    task_id = await door.create(image="http://nowhere.invalid/")
    assert isinstance((await door.queue.get(door.account_id, task_id)).generation.kind, TextToImage)


def _files(door: Door) -> list[str]:
    return [path.name for path in door.shelf._folder.glob("??/*")]


async def test_an_account_whose_pictures_do_not_come_holds_up_no_other() -> None:
    places, entered = Places(of_all=4, of_one=2), list[str]()

    async def bring(account_id: str, ends: asyncio.Event) -> None:
        async with places.place(account_id):
            entered.append(account_id)
            await ends.wait()

    slow, quick = asyncio.Event(), asyncio.Event()
    quick.set()
    waiting = [asyncio.create_task(bring("slow", slow)) for _ in range(10)]
    await asyncio.sleep(0)
    await asyncio.wait_for(asyncio.gather(*(bring("quick", quick) for _ in range(5))), 5)
    assert entered.count("slow") == 2
    assert entered.count("quick") == 5
    slow.set()
    await asyncio.gather(*waiting)
    assert entered.count("slow") == 10
