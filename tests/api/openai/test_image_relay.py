"""Pictures that the settings say are drawn elsewhere: relayed as they were asked for, held, and paid by what came."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartParser

from fluxserve.config import PriceSettings, RelayedModelSettings
from fluxserve.domain.completion import Rate
from fluxserve.server import rate_of
from tests.api.chatting import chat_door, question
from tests.api.conftest import Line
from tests.relay.upstream import Heard, Say, chunk, completion, hang, look, pictures, status, stream, whole

pytestmark = pytest.mark.anyio

GENERATE, EDIT = "/v1/images/generations", "/v1/images/edits"
WANTED = {"prompt": "a cat", "quality": "low", "size": "1024x1024"}


def rate(model: str = "gpt-image-1", **settings: Any) -> Rate:
    return rate_of(model, RelayedModelSettings(upstreams=("there",), **settings), PriceSettings())


def relaying(engine: Engine, folder: Path, say: Say, model: str = "gpt-image-1", **settings: Any) -> Any:
    upstream_model = settings.pop("upstream_model", None)
    return chat_door(engine, folder, say, model=model, rate=rate(model, **settings), upstream_model=upstream_model)


async def test_a_request_goes_on_as_it_came_and_so_does_its_answer(sqlite: Engine, tmp_path: Path) -> None:
    said = pictures("a picture", quality="low", size="1024x1024", odd=1.5)
    body = b'{ "prompt":"a c\\u00e4t", "quality":"low","size":"1024x1024", "odd": 1.50,\n"background":"transparent"}'
    async with relaying(sqlite, tmp_path, whole(said), upstream_model="theirs") as house:
        answer = await house.door.client.post(GENERATE, content=body)

        assert (answer.status_code, answer.content) == (200, said)
        (heard,) = house.upstreams[0].heard
        assert heard.path == "/v1/images/generations"
        assert heard.body == body[:-1] + b',"model":"theirs"}'
        assert await house.points() == (110_000, 0)


async def form_of(heard: Heard) -> dict[str, list[Any]]:
    async def whole_body() -> AsyncGenerator[bytes, None]:
        yield heard.body

    found: dict[str, list[Any]] = {}
    parsed = await MultiPartParser(Headers({"content-type": heard.headers["content-type"]}), whole_body()).parse()
    for name, value in parsed.multi_items():
        each = found.setdefault(name, [])
        each.append(value if isinstance(value, str) else (value.filename, await value.read(), value.content_type))
    await parsed.close()
    return found


async def test_a_form_is_made_anew_with_all_that_was_in_it(sqlite: Engine, tmp_path: Path) -> None:
    files = [
        ("image[]", ("a.png", b"the first", "image/png")),
        ("image[]", ("b.webp", b"the second", "image/webp")),
        ("mask", ("m.png", b"a mask", "image/png")),
    ]
    texts = {"model": "gpt-image-1", "prompt": "a hat", "n": "2", "quality": "high", "size": "1024x1536", "odd": "x"}
    async with relaying(sqlite, tmp_path, whole(pictures("a", "b")), upstream_model="theirs") as house:
        answer = await house.door.client.post(EDIT, data=texts, files=files)

        assert answer.status_code == 200, answer.text
        (heard,) = house.upstreams[0].heard
        assert heard.path == "/v1/images/edits"
        assert await form_of(heard) == {
            **{name: [text] for name, text in {**texts, "model": "theirs"}.items()},
            "image[]": [files[0][1], files[1][1]],
            "mask": [files[2][1]],
        }
        assert await house.points() == (2 * 2_500_000, 0)


PAID: dict[str, tuple[Say, dict[str, Any], int]] = {
    "as told": (whole(pictures("a", quality="high", size="1536x1024")), {"quality": "auto", "size": "auto"}, 2_500_000),
    "as asked, where nothing is told": (whole(pictures("a")), {"quality": "high"}, 1_670_000),
    "auto that nobody tells": (whole(pictures("a")), {"quality": "auto", "size": "auto"}, 420_000),
    "never above the hold": (whole(pictures("a", quality="high", size="1536x1024")), {}, 110_000),
    "each picture": (whole(pictures("a", "b", "c")), {"n": 3}, 330_000),
    "fewer than asked for": (whole(pictures("a")), {"n": 3}, 110_000),
    "more than asked for": (whole(pictures("a", "b")), {}, 110_000),
    "none": (whole(pictures()), {}, 0),
    "refused": (status(400), {}, 0),
    "500": (status(500), {}, 0),
    "hang": (hang, {}, 0),
    "a stream": (stream(look("partial_image", "l"), look("completed", "a")), {"stream": True}, 110_000),
    "a stream that tells": (
        stream(look("completed", "a", quality="medium", size="1024x1024")), {"stream": True, "quality": "auto"}, 420_000
    ),
    "a stream that is cut after a look": (stream(look("partial_image", "l"), is_cut=True), {"stream": True}, 110_000),
    "a stream that is cut before": (stream(b": so far nothing\n\n", is_cut=True), {"stream": True}, 0),
    "a stream that is an error": (stream(b'data: {"type": "error"}\n\n'), {"stream": True}, 0),
}  # fmt: skip


@pytest.mark.parametrize("case", PAID)
async def test_what_came_is_paid_and_nothing_is_held_any_more(sqlite: Engine, tmp_path: Path, case: str) -> None:
    say, fields, price = PAID[case]
    async with relaying(sqlite, tmp_path, say) as house:
        await house.door.client.post(GENERATE, json={**WANTED, **fields})

        assert await house.points() == (price, 0)


async def test_the_dearest_that_it_may_be_is_held(sqlite: Engine, tmp_path: Path) -> None:
    asks: list[tuple[dict[str, Any], int]] = [
        ({}, 110_000),
        ({"quality": "auto"}, 1_670_000),
        ({"size": "auto"}, 160_000),
        ({"quality": "auto", "size": None, "n": 2}, 5_000_000),
    ]
    async with relaying(sqlite, tmp_path, hang) as house:
        for fields, held in asks:
            line = Line(house.door, GENERATE, {**WANTED, **fields})
            async with asyncio.timeout(5):
                while not (frozen := (await house.points())[1]):
                    await asyncio.sleep(0.01)
            assert frozen == held
            line.hung_up.set()
            await line.answered
            assert await house.points() == (0, 0)


async def test_who_has_seen_a_look_pays_for_the_picture(sqlite: Engine, tmp_path: Path) -> None:
    seen = stream(look("partial_image", "a look"), hangs=True)
    async with relaying(sqlite, tmp_path, seen) as house:
        line = Line(house.door, GENERATE, {**WANTED, "stream": True})
        async with asyncio.timeout(5):
            while not line.statuses:
                await asyncio.sleep(0.01)
        line.hung_up.set()
        await line.answered

        assert await house.settled() == 110_000
        async with asyncio.timeout(5):
            while not house.upstreams[0].left:
                await asyncio.sleep(0.01)


async def test_a_stream_is_passed_on_as_it_came_and_fetched_again_whole(sqlite: Engine, tmp_path: Path) -> None:
    parts = [look("partial_image", "l", partial_image_index=0), look("completed", "a", quality="low", usage={"x": 1})]
    async with relaying(sqlite, tmp_path, stream(*parts)) as house:
        answer = await house.door.client.post(GENERATE, json={**WANTED, "stream": True})
        again = await house.door.client.get(f"/api/v1/task/{answer.headers['x-task-id']}")

        assert answer.content == b"".join(parts)
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert again.json() == {"created": 1, "data": [{"b64_json": "a"}], "quality": "low", "usage": {"x": 1}}


async def test_sent_twice_it_is_drawn_once_and_paid_once(sqlite: Engine, tmp_path: Path) -> None:
    files = {"image": ("a.png", b"a picture", "image/png")}
    async with relaying(sqlite, tmp_path, whole(pictures("a"))) as house:
        answers = [
            await house.door.client.post(
                EDIT, data={**WANTED, "model": "gpt-image-1"}, files=files, headers={"Idempotency-Key": "once"}
            )
            for _ in range(2)
        ]
        streamed = await house.door.client.post(
            GENERATE, json={**WANTED, "stream": True}, headers={"Idempotency-Key": "another"}
        )

        assert [answer.json()["data"] for answer in answers] == 2 * [[{"b64_json": "a"}]]
        assert len(house.upstreams[0].heard) == 1
        assert await house.points() == (110_000, 0)
        assert (streamed.status_code, streamed.json()["error"]["param"]) == (400, "Idempotency-Key")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"n": 11}, "n"),
        ({"n": "two"}, "n"),
        ({"stream": "perhaps"}, "stream"),
        ({"quality": 5}, "quality"),
        ({"Model": "dearer"}, "Model"),
    ],
)
async def test_what_we_read_must_be_right(sqlite: Engine, tmp_path: Path, body: dict[str, Any], field: str) -> None:
    async with relaying(sqlite, tmp_path, whole(pictures("a"))) as house:
        answer = await house.door.client.post(GENERATE, json={**WANTED, **body})

        assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)
        assert house.upstreams[0].heard == []


async def test_tokens_may_be_what_is_paid_for(sqlite: Engine, tmp_path: Path) -> None:
    told = {"input_tokens": 10, "output_tokens": 272, "total_tokens": 282}
    async with relaying(sqlite, tmp_path, whole(pictures("a", usage=told)), input_usd=10.0, output_usd=40.0) as house:
        await house.door.client.post(GENERATE, json=WANTED)

        assert await house.points() == (100 * 10 + 400 * 272, 0)


async def test_other_models_are_drawn_here_all_the_same(sqlite: Engine, tmp_path: Path) -> None:
    async with relaying(sqlite, tmp_path, whole(pictures("a"))) as house, house.door.drawing():
        answer = await house.door.client.post(GENERATE, json={**WANTED, "model": "flux1-schnell"})

        assert answer.status_code == 200, answer.text
        assert house.upstreams[0].heard == []


# ---------------------------------------------------------------- gpt-4o-image, by chat

IN_WORDS = "![picture](https://pictures.test/a.png)"
BESIDE = {"images": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,YQ=="}}]}
WITH, WITHOUT = 200_000, 6_600
CHATS: dict[str, tuple[Say, dict[str, Any], int]] = {
    "in words": (whole(completion(f"here:\n{IN_WORDS}\n")), {}, WITH),
    "in parts": (whole(completion([{"type": "image_url", "image_url": {"url": "x"}}])), {}, WITH),  # type: ignore[arg-type]
    "none": (whole(completion("Generation failed")), {}, WITHOUT),
    "a link is none": (whole(completion("[a page](https://x.test)")), {}, WITHOUT),
    "refused": (status(400), {}, 0),
    "500": (status(500), {}, 0),
    "a stream": (stream(chunk({"content": IN_WORDS[:9]}), chunk({"content": IN_WORDS[9:]})), {"stream": True}, WITH),
    "a stream, beside": (stream(chunk({"content": "> drawing"}), chunk(BESIDE)), {"stream": True}, WITH),
    "both ways is one": (stream(chunk({"content": IN_WORDS}), chunk(BESIDE)), {"stream": True}, WITH),
    "a stream without": (stream(chunk({"content": "Generation failed"})), {"stream": True}, WITHOUT),
}


@pytest.mark.parametrize("case", CHATS)
async def test_a_chat_pays_for_its_picture_or_little_without_one(sqlite: Engine, tmp_path: Path, case: str) -> None:
    say, fields, price = CHATS[case]
    async with relaying(sqlite, tmp_path, say, "gpt-4o-image") as house:
        await house.ask(**{**question(), "model": "gpt-4o-image", **fields})

        assert await house.points() == (price, 0)


async def test_prices_are_the_settings_to_say(sqlite: Engine, tmp_path: Path) -> None:
    drawn = whole(completion(IN_WORDS))
    async with relaying(sqlite, tmp_path, drawn, "gpt-4o-image", picture_usd=0.5, minimum_usd=0.0) as house:
        await house.ask(**{**question(), "model": "gpt-4o-image"})
        assert await house.points() == (5_000_000, 0)
