"""No account sees another's thing (G17): every operation of the API's own pages, with every id of somebody else's.

What is another's is answered as what is not there, to the last byte. The one exception is the address of a picture: its
128 random bits are the right to fetch it, for whoever has them.
"""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from PIL import Image
from sqlalchemy import Engine
from starlette.routing import Mount

from fluxserve.domain.generation import images_of
from fluxserve.domain.task import Completed
from tests.api.chatting import chat_door, question
from tests.api.conftest import Door, cat, picture
from tests.relay.upstream import Heard, Say, answering, completion, whole

pytestmark = pytest.mark.anyio

CANARY = "a canary that nobody else may hear"

# What somebody else's key gets of each operation with an id that is not theirs, or without any: a new one must be here.
OPERATIONS = {
    ("GET", "/files/{name}"): 404,
    ("GET", "/healthz"): 503,  # no account's: it is starting
    ("POST", "/api/v1/task"): 200,
    ("GET", "/api/v1/task/{task_id}"): 404,
    ("DELETE", "/api/v1/task/{task_id}"): 404,
    ("GET", "/api/v1/task/{task_id}/events"): 404,
    ("GET", "/api/v1/task/{task_id}/webhook"): 404,
    ("POST", "/api/v1/task/{task_id}/webhook"): 404,
    ("DELETE", "/api/v1/tasks"): 200,
    ("POST", "/api/ephemeral_resource"): 200,
    ("GET", "/api/open/tasks/histories"): 200,
    ("POST", "/v1/chat/completions"): 200,
    ("GET", "/v1/models"): 200,
    ("GET", "/v1/models/{model}"): 404,
    ("POST", "/v1/flux-fill-dev"): 504,  # it is accepted, and nobody draws it here
    ("POST", "/v2/flux-fill-dev"): 200,
    ("GET", "/v2/requests/{request_id}"): 404,
    ("GET", "/v2/requests/{request_id}/status"): 404,
    ("GET", "/v1/requests/{request_id}"): 404,
    ("GET", "/v1/get-user-credits"): 200,
    ("GET", "/v1/credits"): 200,
    ("GET", "/account/info"): 200,
    ("GET", "/account/active_tasks"): 200,
    ("POST", "/v1/images/generations"): 504,  # nobody draws here
    ("POST", "/v1/images/edits"): 504,
    # The operator's: no account's key opens any of it, whether or not there is such an id.
    ("GET", "/admin/accounts"): 401,
    ("POST", "/admin/accounts"): 401,
    ("GET", "/admin/accounts/{account_id}"): 401,
    ("POST", "/admin/accounts/{account_id}/credit"): 401,
    ("POST", "/admin/accounts/{account_id}/limit"): 401,
    ("GET", "/admin/accounts/{account_id}/keys"): 401,
    ("POST", "/admin/accounts/{account_id}/keys"): 401,
    ("DELETE", "/admin/keys/{key_id}"): 401,
    ("GET", "/admin/tasks/{task_id}/webhook"): 401,
    ("POST", "/admin/tasks/{task_id}/webhook"): 401,
    ("GET", "/admin/audit"): 401,
}
# Every parameter and field of a body that could name something of somebody's; those of a picture can name an upload.
IDS = {
    "name", "task_id", "request_id", "account_id", "key_id", "Idempotency-Key", "input", "file_data", "image",
    "image[]", "mask", "model",
}  # fmt: skip
NO_IDS = {
    "task_type", "config", "page", "page_size", "start_time", "end_time", "created_before", "file_name",
    "messages", "stream_options", "max_tokens", "max_completion_tokens", "X-Deadline-Seconds", "Last-Event-ID",
    "credits_usd", "max_concurrent", "usd", "prompt", "n", "size", "quality", "background", "moderation",
    "output_format", "output_compression", "stream", "partial_images", "input_fidelity", "guidance", "megapixels",
    "num_inference_steps", "num_outputs", "output_quality", "disable_safety_checker", "seed", "base64",
}  # fmt: skip


@dataclass
class Operation:
    method: str
    path: str
    in_path: list[str]
    others: set[str]  # the names of its other parameters, and of its body's fields
    has_body: bool


async def operations(door: Door) -> list[Operation]:
    """All that the pages of the app and of every app in it know."""
    found = []
    mounts = ["", *(route.path for route in door.app.routes if isinstance(route, Mount))]
    for mount, its_pages in [*((mount, mount) for mount in mounts), ("", "/segmind")]:
        pages = (await door.client.get(f"{its_pages}/openapi.json")).json()
        for path, methods in pages["paths"].items():
            for method, told in methods.items():
                parameters = told.get("parameters", [])
                content = told.get("requestBody", {}).get("content", {})
                fields = [name for kind in content.values() for name in kind["schema"].get("properties", {})]
                found.append(
                    Operation(
                        method.upper(),
                        mount + path,
                        [each["name"] for each in parameters if each["in"] == "path"],
                        {each["name"] for each in parameters if each["in"] != "path"} | set(fields),
                        bool(content),
                    )
                )
    return found


@dataclass
class Things:
    """What one account has, of every kind. `texts` is everything of it that nobody else may be told."""

    tasks: list[str]
    webhook: str
    keys: list[str]  # on the shelf
    pictures: list[str]  # addresses: an upload's and an output's
    account_id: str
    key_id: str
    completion: str

    @property
    def ids(self) -> list[str]:
        return [*self.tasks, self.completion, self.webhook, *self.keys, self.account_id, self.key_id]

    @property
    def texts(self) -> list[str]:
        return [*self.ids, *self.pictures, CANARY]


def png(colour: str = "teal") -> str:
    file = BytesIO()
    Image.new("RGB", (64, 64), colour).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def over(image: str) -> dict[str, Any]:
    return {"model": "Qubico/flux1-dev", "task_type": "img2img", "input": {"prompt": "a bear", "image": image}}


def filled(image: str) -> dict[str, Any]:
    return {"prompt": "a bear", "image": image, "mask": png("white")}


def parrot(heard: Heard) -> Say:
    return whole(completion(f"you said {heard.values['messages'][0]['content']}"))


@pytest.fixture
async def door(sqlite: Engine, tmp_path: Path) -> AsyncIterator[Door]:
    """With a text model, whose upstream says what it heard."""
    async with chat_door(sqlite, tmp_path, answering(parrot), wait_seconds=0.05) as chat:
        yield chat.door


@pytest.fixture
async def things(door: Door) -> Things:
    """Of the first account: tasks that wait, are drawn and are completed; an upload, an input, an output; a webhook."""
    upload = (await door.client.post("/api/ephemeral_resource", json={"file_name": "x", "file_data": png()})).json()
    waiting = await door.create(prompt=CANARY)
    polled = await door.client.post("/v2/flux-fill-dev", json=filled(png()) | {"prompt": CANARY})
    headers = {"Idempotency-Key": "theirs"}
    running = (await door.client.post("/api/v1/task", json=over(upload["data"]["url"]), headers=headers)).json()
    await door.queue.progress(await door.claimed(running["data"]["task_id"]), 1, 4, b"a preview")
    told = await door.create_told(f"https://receiver.test/{CANARY.replace(' ', '-')}")
    door.shelf.put("aa.png", b"a picture")
    await door.end(told, Completed((picture("a"),)))
    headers = {"Idempotency-Key": "their completion"}
    talked = await door.client.post("/v1/chat/completions", json=question(CANARY), headers=headers)
    assert CANARY in talked.text
    (key,) = await door.accounts.keys(door.account_id)
    drawn = await door.queue.get(door.account_id, running["data"]["task_id"])
    filling = await door.queue.get(door.account_id, polled.json()["request_id"])
    return Things(
        tasks=[waiting, drawn.id, told, filling.id],
        webhook=(await door.outbox.log(None, told)).id,
        keys=sorted(await door.queue.kept_keys() | {*images_of(drawn.generation), *images_of(filling.generation)}),
        pictures=[upload["data"]["url"], f"http://pictures.test/files/{'a' * 32}.png"],
        account_id=door.account_id,
        key_id=key.id,
        completion=talked.headers["x-task-id"],
    )


@pytest.fixture
async def stranger(door: Door) -> AsyncIterator[httpx.AsyncClient]:
    async with door.stranger() as client:
        yield client


def unknown_like(known: str) -> str:
    """An id of the same form that nobody has."""
    stem, dot, kind = known.partition(".")
    return "".join("0" if letter.isalnum() else letter for letter in stem) + dot + kind


def without_ids(answer: httpx.Response, *ids: str) -> tuple[int, str, str]:
    text = answer.text
    for each in ids:
        text = text.replace(each, "ID")
    return answer.status_code, answer.headers["content-type"], text


async def test_every_operation_and_everything_that_could_be_an_id_has_a_case(door: Door) -> None:
    known = await operations(door)

    assert {(each.method, each.path) for each in known} == set(OPERATIONS)
    for each in known:
        assert set(each.in_path) <= IDS, each
        assert each.others <= IDS | NO_IDS, each


async def test_another_accounts_ids_are_answered_as_those_of_nobody(
    door: Door, things: Things, stranger: httpx.AsyncClient
) -> None:
    before = [await door.data(task_id) for task_id in things.tasks]
    asked = 0
    for each in await operations(door):
        for name in each.in_path:
            for known in [*things.ids, *(url.rsplit("/", 1)[-1].replace(".png", "") for url in things.pictures)]:
                answers = [
                    await stranger.request(each.method, each.path.replace(f"{{{name}}}", value), **body_of(each))
                    for value in (known, unknown_like(known))
                ]
                theirs, nobodys = (without_ids(answer, known, unknown_like(known)) for answer in answers)
                assert theirs == nobodys, (each, known)
                assert theirs[0] == OPERATIONS[each.method, each.path], (each, known)
                asked += 1
    assert asked > 100
    assert [await door.data(task_id) for task_id in things.tasks] == before
    assert await door.queue.wished_cancelled() == []
    assert (await door.outbox.log(None, things.tasks[2])).attempts == ()


def body_of(operation: Operation) -> dict[str, Any]:
    if not operation.has_body:
        return {}
    match operation.path:
        case "/v1/chat/completions":
            return {"json": question("something else")}
        case "/v1/flux-fill-dev" | "/v2/flux-fill-dev":
            return {"json": filled(png())}
        case "/api/ephemeral_resource":
            return {"json": {"file_name": "x", "file_data": png()}}
        case "/api/v1/task":
            return {"json": cat()}
        case "/v1/images/generations":
            return {"json": {"prompt": "a cat"}}
        case "/v1/images/edits":
            return {"data": {"prompt": "a hat"}, "files": {"image": ("x.png", base64.b64decode(png()), "image/png")}}
        case _:
            return {"json": {"name": "x", "usd": 1, "max_concurrent": 1}}


async def test_what_needs_no_id_tells_nothing_of_another_account(
    door: Door, things: Things, stranger: httpx.AsyncClient
) -> None:
    own = (await stranger.get("/account/info")).json()["data"]["id"]
    for each in await operations(door):
        if each.in_path:
            continue
        answer = await stranger.request(each.method, each.path, **body_of(each))
        assert (each.path, answer.status_code) == (each.path, OPERATIONS[each.method, each.path])
        assert [text for text in things.texts if text in answer.text] == []
    histories = (await stranger.get("/api/open/tasks/histories", params={"page_size": 100})).json()["data"]["data"]
    assert {task["account_id"] for task in histories} == {own}
    assert (await door.data(things.tasks[0]))["status"] == "pending"  # a stranger has cancelled all that was theirs


async def test_an_upload_or_an_output_is_drawn_from_by_whoever_has_its_address_and_by_nothing_else(
    door: Door, things: Things, stranger: httpx.AsyncClient
) -> None:
    door.shelf.put("aa.png", base64.b64decode(png()))
    for url in things.pictures:
        assert (await stranger.post("/api/v1/task", json=over(url))).status_code == 200
        assert (await stranger.post("/v2/flux-fill-dev", json=filled(url))).status_code == 200
        answer = await stranger.post("/api/ephemeral_resource", json={"file_name": "x", "file_data": url})
        assert answer.status_code == 400
    own_keys = [key for key in things.keys if re.fullmatch(r"[0-9a-f]{32}\.png", key)]
    assert len(own_keys) == 4  # the upload's and the inputs' on the shelf: they look like addresses and are none
    for known in [*things.ids, *(f"http://pictures.test/files/{key}" for key in own_keys)]:
        unknown = known.replace(known.rsplit("/", 1)[-1], unknown_like(known.rsplit("/", 1)[-1]))
        for path, body in (("/api/v1/task", over), ("/v2/flux-fill-dev", filled)):
            answers = [await stranger.post(path, json=body(value)) for value in (known, unknown)]
            theirs, nobodys = (without_ids(answer, known, unknown) for answer in answers)
            assert theirs == nobodys
            assert theirs[0] == 400


async def test_a_picture_is_fetched_by_its_address_and_not_by_any_other_name_of_it(
    things: Things, stranger: httpx.AsyncClient
) -> None:
    for url in things.pictures:
        assert (await stranger.get(url.removeprefix("http://pictures.test"))).status_code == 200
    for known in things.ids:
        for name in (known, f"{known}.png"):
            assert (await stranger.get(f"/files/{name}")).status_code == 404


async def test_another_accounts_idempotency_key_makes_a_task_of_ones_own(
    things: Things, stranger: httpx.AsyncClient
) -> None:
    headers = {"Idempotency-Key": "theirs"}
    same = await stranger.post("/api/v1/task", json=over(things.pictures[0]), headers=headers)
    again, other = await asyncio.gather(
        stranger.post("/api/v1/task", json=over(things.pictures[0]), headers=headers),
        stranger.post("/api/v1/task", json=cat(), headers={"Idempotency-Key": "another"}),
    )

    assert (same.status_code, other.status_code) == (200, 200)
    assert again.content == same.content
    assert json.loads(same.content)["data"]["task_id"] not in things.tasks


async def test_another_accounts_idempotency_key_makes_a_completion_of_ones_own(
    things: Things, stranger: httpx.AsyncClient
) -> None:
    headers = {"Idempotency-Key": "their completion"}

    same = await stranger.post("/v1/chat/completions", json=question(CANARY), headers=headers)

    assert same.status_code == 200
    assert same.headers["x-task-id"] != things.completion
