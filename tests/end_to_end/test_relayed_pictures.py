"""A server whose pictures come from another, which draws them: OpenAI's SDK does not see the difference."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from openai import OpenAI

from tests.end_to_end.openai_pictures import hole, opened, photo
from tests.end_to_end.serving import KEY, Server, running
from tests.end_to_end.text_model import relayed

FIRST_POINTS = 10_000_000_000
SQUARE = {"low": 110_000, "medium": 420_000}
A_CHAT = 200_000


@dataclass
class House:
    drawing: Server
    relaying: Server
    client: OpenAI

    def spent(self) -> tuple[int, int]:
        """Points: at the server that relays, and at the one that draws."""
        return _spent(self.relaying), _spent(self.drawing)


def _spent(server: Server) -> int:
    with server.client() as client:
        wallet = client.get("/account/info").json()["data"]["wallet"]
    assert server.rows("SELECT SUM(frozen) FROM accounts") == [(0,)]
    return FIRST_POINTS - int(wallet["point_remain"])


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("relayed")
    with running(folder / "drawing") as drawing:
        models: dict[str, object] = {
            "gpt-image-1": {"upstreams": ["there"]},
            "gpt-4o-image": {"upstreams": ["there"]},
            "pictures": {"upstreams": ["there"], "upstream_model": "flux1-schnell", "picture_usd": 0.005},
        }
        environment = relayed({"there": {"url": f"{drawing.url}/v1", "key": KEY}}, models)
        with (
            running(folder / "relaying", **environment) as relaying,
            OpenAI(base_url=f"{relaying.url}/v1", api_key=KEY, max_retries=0) as client,
        ):
            yield House(drawing, relaying, client)


def test_pictures_are_generated_and_paid_at_both(house: House) -> None:
    before = house.spent()

    answer = house.client.images.generate(model="gpt-image-1", prompt="a red circle", quality="low", size="1024x1024")

    assert answer.data is not None
    assert opened(answer.data[0].b64_json).size == (1024, 1024)
    assert [after - then for after, then in zip(house.spent(), before, strict=True)] == 2 * [SQUARE["low"]]


def test_two_pictures_and_a_mask_go_on_as_files(house: House) -> None:
    together = house.client.images.edit(
        model="gpt-image-1", image=[photo(), photo()], prompt="make it green", quality="low", size="256x256"
    )
    painted = house.client.images.edit(
        model="gpt-image-1", image=photo(), mask=hole(), prompt="a yellow circle", quality="low"
    )

    for answer in (together, painted):
        assert answer.data is not None
        assert opened(answer.data[0].b64_json).size == (256, 256)


def test_a_stream_of_looks_comes_through(house: House) -> None:
    before = house.spent()

    stream = house.client.images.generate(
        model="gpt-image-1", prompt="a red circle", quality="medium", size="512x512", stream=True, partial_images=2
    )
    events = [(event.type, opened(event.b64_json).size) for event in stream]

    assert [kind for kind, _ in events] == [
        "image_generation.partial_image", "image_generation.partial_image", "image_generation.completed"
    ]  # fmt: skip
    assert {size for _, size in events} == {(512, 512)}
    assert [after - then for after, then in zip(house.spent(), before, strict=True)] == 2 * [SQUARE["medium"]]


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_chat_ends_with_a_picture_and_is_paid_as_one(house: House, is_stream: bool) -> None:
    before = house.spent()
    question: Any = [{"role": "user", "content": "a red circle on a blue background"}]

    if is_stream:
        chunks = house.client.chat.completions.create(model="gpt-4o-image", messages=question, stream=True)
        said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    else:
        answer = house.client.chat.completions.create(model="gpt-4o-image", messages=question)
        said = answer.choices[0].message.content or ""

    assert f"![picture]({house.drawing.url}/files/" in said
    assert [after - then for after, then in zip(house.spent(), before, strict=True)] == 2 * [A_CHAT]


def test_a_model_may_have_another_name_and_another_price_there(house: House) -> None:
    before = house.spent()

    answer = house.client.images.generate(model="pictures", prompt="a red circle", size="256x256", n=2)

    assert answer.data is not None
    assert len(answer.data) == 2
    assert [after - then for after, then in zip(house.spent(), before, strict=True)] == [2 * 50_000, 2 * 20_000]
