"""OpenAI's own SDKs, for Python and for Node, unmodified but for the base URL, at a real server with small models."""

import base64
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from openai import OpenAI
from PIL import Image

from tests.end_to_end.openai_pictures import hole, opened, photo
from tests.end_to_end.serving import KEY, Server, running

NODE_PROGRAM = Path(__file__).parent / "node" / "images.mjs"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("openai") / "data") as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def test_pictures_are_generated(client: OpenAI) -> None:
    answer = client.images.generate(
        model="gpt-image-1", prompt="a red circle on a blue background", quality="low", size="1024x1024", n=2
    )

    assert answer.data is not None
    pictures = [opened(each.b64_json) for each in answer.data]
    assert [picture.size for picture in pictures] == [(1024, 1024), (1024, 1024)]
    assert [picture.format for picture in pictures] == ["PNG", "PNG"]
    assert (answer.quality, answer.size, answer.output_format) == ("low", "1024x1024", "png")
    assert answer.usage is not None
    assert answer.usage.output_tokens == 544
    red, _, blue = pictures[0].convert("RGB").getpixel((512, 512))  # type: ignore[misc]
    assert red > blue


def test_a_picture_is_edited_where_the_mask_is_transparent(client: OpenAI) -> None:
    answer = client.images.edit(
        image=photo(), mask=hole(), prompt="a yellow circle", model="gpt-image-1", quality="low",
        output_format="webp",
    )  # fmt: skip

    assert answer.data is not None
    picture = opened(answer.data[0].b64_json).convert("RGB")
    assert picture.size == (256, 256)
    outside = np.asarray(picture)[:48].reshape(-1, 3).mean(axis=0)
    assert outside[2] > 200
    assert outside[0] < 40


def test_two_pictures_are_edited_together(client: OpenAI) -> None:
    answer = client.images.edit(
        image=[photo(), photo((128, 128))], prompt="make the background green", model="gpt-image-1", quality="low"
    )

    assert answer.data is not None
    assert opened(answer.data[0].b64_json).size == (1536, 1024)


@pytest.mark.parametrize("partial_images", [1, 2, 3])
def test_looks_at_the_unfinished_picture_come_nearer_and_nearer(client: OpenAI, partial_images: int) -> None:
    stream = client.images.generate(
        model="gpt-image-1", prompt="a red circle on a blue background", quality="medium", size="512x512", stream=True,
        partial_images=partial_images,
    )  # fmt: skip
    looks: list[Image.Image] = []
    picture: Image.Image | None = None
    for event in stream:
        if event.type == "image_generation.partial_image":
            assert event.partial_image_index == len(looks)
            looks.append(opened(event.b64_json))
        else:
            picture = opened(event.b64_json)
            assert event.usage.total_tokens > 0

    assert picture is not None
    assert len(looks) == partial_images
    assert {look.size for look in looks} == {picture.size} == {(512, 512)}
    distances = [float(np.abs(levels(look) - levels(picture)).mean()) for look in looks]
    assert distances == sorted(distances, reverse=True)
    assert len(set(distances)) == partial_images
    assert all(distance > 0 for distance in distances)


def levels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"), dtype=np.float32)


def test_a_conversation_is_answered_with_a_picture_and_goes_on_from_it(client: OpenAI) -> None:
    question: list[Any] = [{"role": "user", "content": "a red circle on a blue background"}]
    first = client.chat.completions.create(model="gpt-4o-image", messages=question)
    said = first.choices[0].message.content
    assert said is not None
    (url,) = re.findall(r"!\[[^]]*\]\((http[^)]+)\)", said)
    assert first.usage is not None

    question += [{"role": "assistant", "content": said}, {"role": "user", "content": "make the background green"}]
    stream = client.chat.completions.create(model="gpt-4o-image", messages=question, stream=True)
    words, pictures = [], []
    for chunk in stream:
        for choice in chunk.choices:
            words.append(choice.delta.content or "")
            pictures += (choice.delta.model_extra or {}).get("images", [])

    assert any(re.search(r"step \d+ of \d+", word) for word in words)
    (link,) = [word for word in words if "](http" in word]
    assert url not in link
    (picture,) = pictures
    data = picture["image_url"]["url"].removeprefix("data:image/png;base64,")
    red, green, blue = opened(data).convert("RGB").resize((9, 9)).getpixel((0, 0))  # type: ignore[misc]
    assert green > max(red, blue)


def test_the_node_sdk_generates_edits_streams_and_chats(server: Server) -> None:
    pictures = [base64.b64encode(file.getvalue()).decode() for file in (photo(), hole())]
    node = Path(sys.executable).with_name("node")
    ended = subprocess.run(
        [node, NODE_PROGRAM, f"{server.url}/v1", KEY, *pictures], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)

    assert {opened(told[name]).size for name in ("generated", "edited", "together")} == {(256, 256)}
    for looks, events in enumerate(told["streams"], 1):
        assert [event["type"].removeprefix("image_generation.") for event in events] == [
            *looks * ["partial_image"], "completed"
        ]  # fmt: skip
        assert {opened(event["picture"]).size for event in events} == {(256, 256)}
    for said in (told["answered"], told["said"]):
        assert re.search(rf"!\[picture\]\({server.url}/files/", said)
    assert told["refused"] == {"kind": "BadRequestError", "code": "invalid_value"}
    assert told["unknown"] == {"kind": "AuthenticationError", "code": "invalid_api_key"}


def test_refusals_are_the_sdks_own_exceptions(server: Server, client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.generate(model="gpt-image-1", prompt="a cat", background="transparent")
    assert refused.value.param == "background"
    assert refused.value.code == "invalid_value"
    with pytest.raises(openai.BadRequestError, match="mask"):
        client.images.edit(image=photo(), mask=photo((64, 64)), prompt="a cat")
    with OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0) as nobody:
        with pytest.raises(openai.AuthenticationError) as unknown:
            nobody.images.generate(model="gpt-image-1", prompt="a cat")
        assert unknown.value.code == "invalid_api_key"
    with pytest.raises(openai.NotFoundError) as missing:
        client.post("/images/variations", cast_to=object)
    assert missing.value.code == "unknown_url"
