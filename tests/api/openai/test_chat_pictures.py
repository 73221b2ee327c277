"""gpt-4o-image: a conversation that ends in a picture, as its callers see it."""

import asyncio
import base64
import json
from typing import Any

import pytest
from PIL import Image

from fluxserve.api.dialects.openai.chat_wishes import wish_of
from fluxserve.domain.errors import InvalidInput
from fluxserve.domain.generation import Edit, TextToImage
from fluxserve.domain.task import Errored
from tests.api.conftest import PUBLIC_URL, Door
from tests.api.openai.test_images import DOLLAR, asking, completed, png, taken_up, task_of

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"


def image(colour: str = "teal", size: tuple[int, int] = (96, 64)) -> dict[str, Any]:
    data = base64.b64encode(png(size, colour)).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}


def said(content: Any, role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": content}


def asked(*messages: dict[str, Any], stream: bool = False) -> dict[str, Any]:
    return {"model": "gpt-4o-image", "messages": list(messages), "stream": stream}


async def test_a_conversation_in_words_ends_in_a_picture_at_an_address(each_door: Door) -> None:
    door = each_door
    async with asking(door, CHAT, json=asked(said("be brief", "system"), said("draw a cat"))) as sending:
        held = await taken_up(door)
        task = await task_of(door, held)
        assert task.generation.kind == TextToImage("draw a cat")
        await completed(door, held)
        answer = await sending

    assert answer.status_code == 200, answer.text
    assert answer.headers["x-task-id"] == task.id
    told = answer.json()
    (choice,) = told["choices"]
    url = f"{PUBLIC_URL}/files/{held.task_id[:30]}00.png"
    assert choice["message"]["content"] == f"\n![picture]({url})\n"
    data = f"data:image/png;base64,{base64.b64encode(b'picture 0').decode()}"
    assert choice["message"]["images"] == [{"type": "image_url", "image_url": {"url": data}}]
    assert choice["finish_reason"] == "stop"
    assert (told["object"], told["model"], told["id"]) == ("chat.completion", "gpt-4o-image", f"chatcmpl-{task.id}")
    assert told["usage"] == {"prompt_tokens": 3, "completion_tokens": 1056, "total_tokens": 1059}
    assert (await door.accounts.get(door.account_id)).balance == DOLLAR - 200_000


async def test_pictures_that_come_in_are_changed_side_by_side(door: Door) -> None:
    content = [{"type": "text", "text": "both together"}, image("red", (64, 64)), image("blue", (64, 64))]
    async with asking(door, CHAT, json=asked(said(content))) as sending:
        held = await taken_up(door)
        task = await task_of(door, held)
        assert isinstance(task.generation.kind, Edit)
        with Image.open(door.shelf.path(task.generation.kind.image)) as shown:
            assert shown.size == (128, 64)
        assert (task.generation.width, task.generation.height) == (1536, 1024)
        await completed(door, held)
        assert (await sending).status_code == 200


def test_the_last_picture_of_a_conversation_is_the_one_that_is_changed() -> None:
    first, second = f"{PUBLIC_URL}/files/a.png", f"{PUBLIC_URL}/files/b.png"
    talk = [
        said([{"type": "text", "text": "draw a cat like this"}, image()]),
        said(f"> drawing\n\n![picture]({first})\n", "assistant"),
        said("now a dog"),
        said(f"\n![picture]({second})\n", "assistant"),
        said("make it blue"),
    ]

    assert wish_of(talk).prompt == "make it blue"
    assert wish_of(talk).images == (second,)
    assert wish_of(talk[:3]).images == (first,)
    assert wish_of([*talk[:4], said([{"type": "text", "text": "and this?"}, image("red")])]).images == (
        image("red")["image_url"]["url"],
    )
    assert wish_of([said("draw a cat")]).images == ()


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([said("")], "messages.0.content"),
        ([said([image()])], "messages.0.content"),
        ([said("x" * 32_001)], "messages.0.content"),
        ([said("a cat"), said("here", "assistant")], "messages.1.role"),
        ([said([{"type": "input_audio"}])], "messages.0.content"),
        ([said([{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {}}])], "messages.0.content"),
        ([said([{"type": "text", "text": "x"}, *[image() for _ in range(17)]])], "messages.0.content"),
    ],
    ids=["empty", "a picture alone", "too long", "an answer last", "sound", "no address", "too many"],
)
def test_what_is_no_wish_is_refused_by_its_place(messages: list[dict[str, Any]], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        wish_of(messages)
    assert refused.value.field == field
    assert "allowed" in refused.value.message


async def test_a_refusal_has_openais_form_and_costs_nothing(door: Door) -> None:
    parts = [{"type": "text", "text": "a cat"}, {"type": "image_url", "image_url": {"url": "no picture"}}]
    answer = await door.client.post(CHAT, json=asked(said(parts)))

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "messages"
    assert (await door.accounts.get(door.account_id)).frozen == 0


async def chunks(door: Door, *messages: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    answer = await door.client.post(CHAT, json=asked(*messages, stream=True))
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    blocks = [block for block in answer.text.split("\n\n") if block]
    assert blocks[-1] == "data: [DONE]"
    return [json.loads(block.removeprefix("data: ")) for block in blocks[:-1]], answer.text


async def test_a_stream_tells_real_steps_then_the_address_in_one_piece_then_the_picture_then_its_usage(
    each_door: Door,
) -> None:
    door = each_door

    async def draw() -> str:
        held = await taken_up(door)
        await asyncio.sleep(0.05)
        for step in (1, 2):
            await door.queue.progress(held, step, 4)
            await asyncio.sleep(0.05)
        await completed(door, held)
        return held.task_id

    (told, raw), task_id = await asyncio.gather(chunks(door, said("draw a cat")), draw())

    assert {each["object"] for each in told} == {"chat.completion.chunk"}
    assert {each["id"] for each in told} == {f"chatcmpl-{task_id}"}
    deltas = [each["choices"][0]["delta"] for each in told if each["choices"]]
    assert deltas[0] == {"role": "assistant", "content": ""}
    words = [delta["content"] for delta in deltas[1:] if "content" in delta]
    link = f"\n![picture]({PUBLIC_URL}/files/{task_id[:30]}00.png)\n"
    assert words[-1] == link
    assert words[-3:-1] == ["> drawing: step 1 of 4\n", "> drawing: step 2 of 4\n"]
    assert raw.count("](http") == 1
    assert "\\/" not in raw
    assert deltas[-2]["images"][0]["image_url"]["url"].startswith("data:image/png;base64,")
    assert (deltas[-1], told[-2]["choices"][0]["finish_reason"]) == ({}, "stop")
    assert (told[-1]["choices"], told[-1]["usage"]["completion_tokens"]) == ([], 1056)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_is_told_in_words_and_costs_nothing(door: Door, stream: bool) -> None:
    async with asking(door, CHAT, json=asked(said("draw a cat"), stream=stream)) as sending:
        await door.queue.finish(await taken_up(door), Errored("flagged", "it was flagged"))
        answer = await sending

    assert answer.status_code == 200
    for part in ("Generation failed", "Reason: it was flagged", "Suggestion: "):
        assert part in answer.text
    assert "images" not in answer.text
    account = await door.accounts.get(door.account_id)
    assert (account.balance, account.frozen) == (DOLLAR, 0)


async def test_the_models_that_draw_are_listed(door: Door) -> None:
    listed = {each["id"] for each in (await door.client.get("/v1/models")).json()["data"]}

    assert {"gpt-image-1", "gpt-4o-image", "flux1-schnell", "flux1-dev", "flux1-dev-advanced"} <= listed
