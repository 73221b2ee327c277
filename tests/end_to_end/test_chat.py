"""OpenAI's own client library at a real server, whose upstream is a real server of text models, not ours."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.end_to_end import chat_calls
from tests.end_to_end.serving import KEY, Server, free_port, running
from tests.end_to_end.text_model import relayed, serving

MESSAGES: Any = [{"role": "user", "content": "Hello!"}]
UPSTREAM_KEY = "sk-canary-of-the-upstream"
PRICES = {"input_usd": 1.5, "output_usd": 6.0}  # 15 points a token of the prompt, 60 one of the completion


@dataclass
class House:
    server: Server
    client: openai.OpenAI

    def spent(self) -> int:
        """Points, once nothing is held."""
        with self.server.client() as client:
            account = client.get("/account/info").json()["data"]
        ((frozen,),) = self.server.rows("SELECT SUM(frozen) FROM accounts")
        assert frozen == 0
        return 10_000_000_000 - int(account["wallet"]["point_remain"])


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("chat")
    with serving(folder) as (url, model):
        dead = {"url": f"http://127.0.0.1:{free_port()}/v1", "key": UPSTREAM_KEY}
        environment = relayed(
            {"real": {"url": url, "key": UPSTREAM_KEY}, "dead": dead},
            {
                "nonsense": {"upstreams": ["dead", "real"], "upstream_model": model, **PRICES},
                "nobody": {"upstreams": ["dead"], **PRICES},
            },
        )
        with running(folder / "data", **environment) as server:
            client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)
            yield House(server, client)
        assert UPSTREAM_KEY not in server.log.read_text()


def test_an_answer_is_what_the_library_expects_and_is_paid_by_its_usage(house: House) -> None:
    before = house.spent()

    answer = house.client.chat.completions.create(model="nonsense", messages=MESSAGES, max_tokens=8)

    assert answer.choices[0].message.role == "assistant"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8
    assert house.spent() - before == 15 * answer.usage.prompt_tokens + 60 * 8


@pytest.mark.parametrize("is_stream", [False, True])
def test_tools_go_on_to_the_upstream_whose_prompt_they_are_part_of(house: House, is_stream: bool) -> None:
    def read(**more: Any) -> int:
        """Tokens of the prompt, as the upstream tells them."""
        create: Any = house.client.chat.completions.create
        streamed = {"stream": True, "stream_options": {"include_usage": True}} if is_stream else {}
        answer = create(model="nonsense", messages=MESSAGES, max_tokens=8, **streamed, **more)
        return int(([*answer][-1] if is_stream else answer).usage.prompt_tokens)

    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    tool = {"type": "function", "function": {"name": "weather", "description": "of a city", "parameters": parameters}}

    assert read(tools=[tool]) - read() >= len("weather of a city")


def test_a_stream_is_what_the_library_expects_and_is_fetched_again(house: House) -> None:
    before = house.spent()

    with house.client.chat.completions.with_streaming_response.create(
        model="nonsense", messages=MESSAGES, max_tokens=8, stream=True
    ) as response:
        task_id = response.headers["x-task-id"]
        chunks = list(response.parse())

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert chunks[-1].choices[0].finish_reason == "length"
    usage = chunks[-1].usage
    assert usage is not None
    assert house.spent() - before == 15 * usage.prompt_tokens + 60 * usage.completion_tokens
    with house.server.client() as client:
        again = client.get(f"/api/v1/task/{task_id}").json()
    assert again["object"] == "chat.completion"
    assert again["choices"][0]["message"]["content"] == text


def test_the_models_are_listed(house: House) -> None:
    names = [model.id for model in house.client.models.list()]
    assert names[:2] == ["nonsense", "nobody"]
    assert {"gpt-image-1", "gpt-4o-image", "flux1-schnell"} < set(names)
    assert house.client.models.retrieve("nonsense").id == "nonsense"
    with pytest.raises(openai.NotFoundError):
        house.client.models.retrieve("gpt-9")


def test_refusals_are_the_exceptions_that_programs_know(house: House) -> None:
    create = house.client.chat.completions.create
    stranger = house.client.with_options(api_key="wrong")
    before = house.spent()

    with pytest.raises(openai.AuthenticationError) as unknown_key:
        stranger.chat.completions.create(model="nonsense", messages=MESSAGES)
    with pytest.raises(openai.NotFoundError) as unknown_model:
        create(model="gpt-9", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError) as wrong_value:
        create(model="nonsense", messages=MESSAGES, max_tokens=-1)
    with pytest.raises(openai.RateLimitError) as too_dear:
        create(model="nonsense", messages=MESSAGES, max_tokens=2**30)
    with pytest.raises(openai.InternalServerError) as nobody:
        create(model="nobody", messages=MESSAGES)

    raised = (unknown_key, unknown_model, wrong_value, too_dear, nobody)
    assert [each.value.code for each in raised] == [
        "invalid_api_key", "model_not_found", "invalid_value", "insufficient_quota", "unavailable",
    ]  # fmt: skip
    assert wrong_value.value.param == "max_tokens"
    assert house.spent() == before


def test_an_idempotency_key_of_the_librarys_is_heeded(house: House) -> None:
    before = house.spent()
    headers = {"Idempotency-Key": "a key of a program's own"}

    first, again = (
        house.client.chat.completions.create(model="nonsense", messages=MESSAGES, max_tokens=8, extra_headers=headers)
        for _ in range(2)
    )

    assert again == first
    assert first.usage is not None
    assert house.spent() - before == 15 * first.usage.prompt_tokens + 60 * 8


def test_charged_is_expected_whatever_upstreams_do(tmp_path: Path) -> None:
    report = chat_calls.run(tmp_path, calls=120, seed=1)

    assert report.wrong == []
    assert len(report.ways) == len(chat_calls.WAYS)
    assert report.findings == []


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_charged_is_expected_a_thousand_times(tmp_path: Path) -> None:
    report = chat_calls.run(tmp_path, calls=1000, seed=None)

    print(report)
    assert report.wrong == []
    assert report.findings == []


def test_a_server_that_is_killed_holds_nothing_once_it_is_back(tmp_path: Path) -> None:
    report = chat_calls.kill(tmp_path, under_way=8)

    assert report.wrong == []
    assert report.findings == []
