"""A completion is relayed as it comes, held before and settled after, whatever its upstream does."""

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from fluxserve.api.dialects.openai.relayed import COMMENT
from fluxserve.domain.completion import Rate
from tests.api.chatting import CREDIT, MOST_OUTPUT, chat_door, question, tokens
from tests.api.conftest import Line
from tests.relay.upstream import (
    DONE,
    HELLO,
    KEY,
    Say,
    chunk,
    completion,
    cut,
    hang,
    last_chunk,
    late,
    status,
    stream,
    told_stream,
    usage,
    whole,
)

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
TOLD = usage(19, 9)
PRICE = 19 + 4 * 9
COUNTED = tokens() + 4 * 2  # "Hello!" is two tokens
COUNTED_STREAM = tokens(stream=True) + 4 * 2
PROMPT_ALONE = tokens()


# ---------------------------------------------------------------- what comes


async def test_an_answer_is_passed_on_as_it_came_and_paid_by_its_usage(sqlite: Engine, tmp_path: Path) -> None:
    said = completion(usage=TOLD, system_fingerprint="fp", odd=1.50)
    async with chat_door(sqlite, tmp_path, whole(said)) as chat:
        answer = await chat.ask(tools=[{"type": "function", "function": {"name": "f"}}], logit_bias={"1": -1})

        assert (answer.status_code, answer.content) == (200, said)
        assert await chat.points() == (PRICE, 0)
        heard = chat.upstreams[0].heard[0].values
        assert heard == question(tools=[{"type": "function", "function": {"name": "f"}}], logit_bias={"1": -1})


async def test_a_stream_is_passed_on_as_it_came_and_paid_by_its_usage(sqlite: Engine, tmp_path: Path) -> None:
    async with chat_door(sqlite, tmp_path, told_stream(*HELLO, told=TOLD)) as chat:
        hidden = await chat.ask(stream=True)
        asked = await chat.ask(stream=True, stream_options={"include_usage": True})

        assert hidden.content == b"".join([*HELLO, DONE])
        assert asked.content == b"".join([*HELLO, last_chunk(TOLD), DONE])
        assert hidden.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert await chat.points() == (2 * PRICE, 0)


@pytest.mark.parametrize("is_stream", [False, True])
async def test_while_it_is_under_way_the_most_that_it_may_cost_is_held(
    sqlite: Engine, tmp_path: Path, is_stream: bool
) -> None:
    fields: dict[str, Any] = {"stream": True} if is_stream else {}
    options: list[tuple[dict[str, Any], int]] = [
        ({}, MOST_OUTPUT),
        ({"max_tokens": 7, "n": 3}, 21),
        ({"max_completion_tokens": 5}, 5),
    ]
    say = late(0.3, stream(*HELLO, DONE) if is_stream else whole(completion()))
    async with chat_door(sqlite, tmp_path, say) as chat:
        for more, output in options:
            asking = asyncio.create_task(chat.ask(**fields, **more))
            async with asyncio.timeout(5):
                while not (held := (await chat.points())[1]):
                    await asyncio.sleep(0.01)
            names_and_texts = _size(question(**fields, **more))
            assert held == names_and_texts + 4 * output
            await asking
            assert (await chat.points())[1] == 0


def _size(values: Any) -> int:
    """Bytes of all names and texts: what the prompt may be in tokens at most."""
    if isinstance(values, dict):
        return sum(len(name) + _size(value) for name, value in values.items())
    if isinstance(values, list):
        return sum(_size(each) for each in values)
    return len(values) if isinstance(values, str) else 0


PAID: dict[str, tuple[Say, dict[str, Any], int]] = {
    "whole": (whole(completion(usage=TOLD)), {}, PRICE),
    "no usage": (whole(completion()), {}, COUNTED),
    "usage that can't be": (whole(completion(usage=usage(-5, "many"))), {}, COUNTED),
    "usage above the hold": (whole(completion(usage=usage(10**12, 10**12))), {}, _size(question()) + 4 * MOST_OUTPUT),
    "no JSON": (whole(b"Hello!!!"), {}, PROMPT_ALONE + 4 * 2),
    "stream": (told_stream(*HELLO, told=TOLD), {"stream": True}, PRICE),
    "stream without usage": (stream(*HELLO, DONE), {"stream": True}, COUNTED_STREAM),
    "stream without an end": (stream(*HELLO), {"stream": True}, COUNTED_STREAM),
    "stream that is cut": (stream(*HELLO, is_cut=True), {"stream": True}, COUNTED_STREAM),
    "stream that hangs": (stream(*HELLO, hangs=True), {"stream": True}, COUNTED_STREAM),
    "stream that is cut after its usage": (stream(*HELLO, last_chunk(TOLD), is_cut=True), {"stream": True}, PRICE),
    "stream with wrong usage": (stream(*HELLO, last_chunk(usage(1.5, 2)), DONE), {"stream": True}, COUNTED_STREAM),
    "a stream was asked for, and the answer is whole": (whole(completion(usage=TOLD)), {"stream": True}, PRICE),
    "refused": (status(400), {}, 0),
    "429": (status(429), {}, 0),
    "500": (status(500), {}, 0),
    "our key is refused": (status(401), {}, 0),
    "cut": (cut, {}, 0),
    "hang": (hang, {}, 0),
    "stream refused": (status(422), {"stream": True}, 0),
    "stream that never begins": (stream(hangs=True), {"stream": True}, 0),
    "stream that is cut at once": (stream(is_cut=True), {"stream": True}, 0),
}  # fmt: skip


@pytest.mark.parametrize("case", PAID)
async def test_what_was_used_is_paid_and_nothing_is_held_any_more(sqlite: Engine, tmp_path: Path, case: str) -> None:
    say, fields, price = PAID[case]
    async with chat_door(sqlite, tmp_path, say) as chat:
        answer = await chat.ask(**fields)

        assert await chat.points() == (price, 0), answer.text
        assert (answer.status_code == 200) == (price > 0)
        assert KEY not in answer.text


async def test_nothing_costs_less_than_the_minimum_but_what_came_to_nothing(sqlite: Engine, tmp_path: Path) -> None:
    async with chat_door(sqlite, tmp_path, whole(completion(usage=TOLD)), rate=Rate(0, 0, 300)) as chat:
        await chat.ask()
        assert await chat.points() == (300, 0)
        chat.upstreams[0].script[:] = [status(500)]
        await chat.ask()
        assert await chat.points() == (300, 0)


async def test_when_one_fails_the_next_is_asked_and_it_is_paid_once(sqlite: Engine, tmp_path: Path) -> None:
    async with chat_door(sqlite, tmp_path, status(500), hang, cut, told_stream(*HELLO, told=TOLD)) as chat:
        assert (await chat.ask(stream=True)).content == b"".join([*HELLO, DONE])
        assert await chat.points() == (PRICE, 0)


# ---------------------------------------------------------------- who leaves, and who waits


@pytest.mark.parametrize(
    ("say", "fields", "price"),
    [
        (hang, {}, PROMPT_ALONE),
        (hang, {"stream": True}, tokens(stream=True)),
        (stream(*HELLO, hangs=True), {"stream": True}, COUNTED_STREAM),
    ],
    ids=["whole", "stream that has not begun", "stream"],
)
async def test_who_hangs_up_stops_the_upstream_and_pays_for_what_was_used(
    sqlite: Engine, tmp_path: Path, say: Say, fields: dict[str, Any], price: int
) -> None:
    times = {"first_byte_seconds": 60.0, "gap_seconds": 60.0, "answer_seconds": 60.0}
    async with chat_door(sqlite, tmp_path, say, times=times) as chat:
        line = Line(chat.door, CHAT, question(**fields))
        await asyncio.sleep(0.5)
        line.hung_up.set()
        await line.answered

        assert await chat.settled() == price
        async with asyncio.timeout(5):
            while not chat.upstreams[0].left:
                await asyncio.sleep(0.01)


async def test_a_call_with_an_idempotency_key_goes_on_when_its_caller_leaves(sqlite: Engine, tmp_path: Path) -> None:
    said = completion(usage=TOLD)
    async with chat_door(sqlite, tmp_path, late(0.5, whole(said))) as chat:
        line = Line(chat.door, CHAT, question(), **{"Idempotency-Key": "again"})
        await asyncio.sleep(0.1)
        line.hung_up.set()
        early = await chat.ask(headers={"Idempotency-Key": "again"})
        assert (early.status_code, early.headers["retry-after"]) == (409, "1")
        assert await chat.settled() == PRICE
        await line.answered

        answer = await chat.ask(headers={"Idempotency-Key": "again"})

        assert (answer.status_code, answer.content) == (200, said)
        assert await chat.points() == (PRICE, 0)
        assert len(chat.upstreams[0].heard) == 1


async def test_while_nothing_comes_a_comment_says_so_and_an_error_comes_within_the_stream(
    sqlite: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fluxserve.api.dialects.openai.relayed.COMMENT_SECONDS", 0.1)
    times = {"first_byte_seconds": 5.0, "gap_seconds": 5.0}
    async with chat_door(sqlite, tmp_path, late(0.35, told_stream(*HELLO, told=TOLD)), times=times) as chat:
        answer = await chat.ask(stream=True)
        assert answer.content.replace(COMMENT, b"") == b"".join([*HELLO, DONE])
        assert answer.content.startswith(2 * COMMENT)
        chat.upstreams[0].script[:] = [stream(HELLO[0], *HELLO[1:], gap=0.25)]
        assert COMMENT in (await chat.ask(stream=True)).content
        spent = await chat.settled()

        for say, code in ((late(0.3, status(500)), "unavailable"), (late(0.3, status(400)), "c")):
            chat.upstreams[0].script[:] = [say]
            failed = await chat.ask(stream=True)
            assert failed.status_code == 200
            event = failed.content.replace(COMMENT, b"")
            assert json.loads(event.removeprefix(b"data: "))["error"]["code"] == code
        assert await chat.points() == (spent, 0)


# ---------------------------------------------------------------- fetched again


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_finished_completion_is_fetched_again(sqlite: Engine, tmp_path: Path, is_stream: bool) -> None:
    say = told_stream(*HELLO, told=TOLD) if is_stream else whole(completion(usage=TOLD))
    async with chat_door(sqlite, tmp_path, say) as chat:
        answer = await chat.ask(stream=is_stream)

        again = await chat.door.client.get(f"/api/v1/task/{answer.headers['x-task-id']}")

        values = again.json()
        assert again.status_code == 200
        assert values == json.loads(completion(usage=TOLD))
        if not is_stream:
            assert again.content == answer.content


async def test_of_one_that_failed_or_is_under_way_the_envelope_tells(sqlite: Engine, tmp_path: Path) -> None:
    async with chat_door(sqlite, tmp_path, status(500)) as chat:
        failed = await chat.ask()
        data = (await chat.door.client.get(f"/api/v1/task/{failed.headers['x-task-id']}")).json()["data"]
        assert (data["status"], data["output"]) == ("failed", None)
        assert data["meta"]["usage"] == {"type": "point", "frozen": 0, "consume": 0}
        assert data["error"]["message"]

        chat.upstreams[0].script[:] = [late(0.4, whole(completion(usage=TOLD)))]
        asking = asyncio.create_task(chat.ask())
        async with asyncio.timeout(5):
            while not chat.door.context.switchboard._under_way:
                await asyncio.sleep(0.01)
        (task_id,) = chat.door.context.switchboard._under_way
        data = (await chat.door.client.get(f"/api/v1/task/{task_id}")).json()["data"]
        assert (data["status"], data["meta"]["usage"]["frozen"] > 0) == ("processing", True)
        await asking


async def test_an_answer_that_is_kept_no_longer_is_told_so(sqlite: Engine, tmp_path: Path) -> None:
    async with chat_door(sqlite, tmp_path, whole(completion(usage=TOLD))) as chat:
        task_id = (await chat.ask()).headers["x-task-id"]
        chat.door.clock.ahead = 24 * 3600 + 1
        await chat.door.context.switchboard.completions.forget_old_answers()

        data = (await chat.door.client.get(f"/api/v1/task/{task_id}")).json()["data"]

        assert (data["status"], data["meta"]["usage"]["consume"]) == ("completed", PRICE)


# ---------------------------------------------------------------- sent again


async def test_a_request_that_is_sent_again_is_answered_as_the_first_time_and_paid_once(
    sqlite: Engine, tmp_path: Path
) -> None:
    async with chat_door(sqlite, tmp_path, whole(completion("one", TOLD))) as chat:
        headers = {"Idempotency-Key": "once"}
        first = await chat.ask(headers=headers)
        chat.upstreams[0].script[:] = [whole(completion("two", TOLD))]

        again = await chat.ask(headers=headers)
        other = await chat.ask(headers=headers, temperature=1)
        anew = await chat.ask(headers={"Idempotency-Key": "twice"})

        assert (again.content, again.headers["x-task-id"]) == (first.content, first.headers["x-task-id"])
        assert other.status_code == 422
        assert anew.content != first.content
        assert await chat.points() == (2 * PRICE, 0)


async def test_a_request_that_failed_may_be_sent_again(sqlite: Engine, tmp_path: Path) -> None:
    async with chat_door(sqlite, tmp_path, status(500)) as chat:
        assert (await chat.ask(headers={"Idempotency-Key": "once"})).status_code == 503
        chat.upstreams[0].script[:] = [whole(completion(usage=TOLD))]

        assert (await chat.ask(headers={"Idempotency-Key": "once"})).status_code == 200
        assert await chat.points() == (PRICE, 0)


# ---------------------------------------------------------------- refused


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "model": ({"model": 5}, "model: 5 is not allowed; allowed is the name of a model"),
    "messages": ({"messages": []}, "messages: [] is not allowed; allowed is a list of at least one message"),
    "messages.0": ({"messages": ["x"]}, "messages.0: 'x' is not allowed; allowed is a list"),
    "stream": ({"stream": "yes"}, "stream: 'yes' is not allowed; allowed is true or false"),
    "max_tokens": ({"max_tokens": -1}, "max_tokens: -1 is not allowed; allowed is a whole number of tokens from 0"),
    "max_completion_tokens": ({"max_completion_tokens": 1.5}, "max_completion_tokens: 1.5 is not allowed"),
    "n": ({"n": 0}, "n: 0 is not allowed; allowed is a whole number of answers from 1 to 128"),
    "stream_options": ({"stream_options": 1}, "stream_options: 1 is not allowed; allowed is an object"),
    "Model": ({"Model": "another"}, "allowed is each field once"),
    "MAX_TOKENS": ({"MAX_TOKENS": 10**9}, "allowed is max_tokens"),
}


@pytest.mark.parametrize("field", WRONG)
async def test_a_wrong_field_is_refused_by_its_name_its_value_and_what_is_allowed(
    sqlite: Engine, tmp_path: Path, field: str
) -> None:
    fields, message = WRONG[field]
    async with chat_door(sqlite, tmp_path, whole(completion())) as chat:
        answer = await chat.ask(**fields)

        error = answer.json()["error"]
        assert answer.status_code == 400
        assert (error["type"], error["param"]) == ("invalid_request_error", field)
        assert message in error["message"]
        assert await chat.points() == (0, 0)
        assert chat.upstreams[0].heard == []


async def test_an_account_that_cant_pay_is_told_so_and_nobody_is_asked(sqlite: Engine, tmp_path: Path) -> None:
    async with chat_door(sqlite, tmp_path, whole(completion())) as chat:
        answer = await chat.ask(max_tokens=CREDIT)

        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "insufficient_quota")
        assert answer.headers["x-should-retry"] == "false"
        assert chat.upstreams[0].heard == []


async def test_a_stream_with_an_idempotency_key_is_refused(sqlite: Engine, tmp_path: Path) -> None:
    async with chat_door(sqlite, tmp_path, whole(completion())) as chat:
        answer = await chat.ask(stream=True, headers={"Idempotency-Key": "k"})

        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Idempotency-Key")


async def test_an_account_has_so_many_under_way_and_no_more(
    sqlite: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fluxserve.api.switchboard.MOST_OF_ONE", 2)
    async with chat_door(sqlite, tmp_path, late(0.3, whole(completion(usage=TOLD)))) as chat:
        statuses = sorted(answer.status_code for answer in await asyncio.gather(*(chat.ask() for _ in range(3))))
        assert statuses == [200, 200, 429]
        assert (await chat.ask()).status_code == 200


async def test_refusals_and_unknown_paths_have_openais_form(sqlite: Engine, tmp_path: Path) -> None:
    async with chat_door(sqlite, tmp_path, whole(completion())) as chat, chat.door.client_with("wrong") as stranger:
        wrong_key = await stranger.get("/v1/models")
        answers = {
            "invalid_api_key": wrong_key,
            "unknown_url": await chat.door.client.post("/v1/embeddings"),
            "model_not_found": await chat.ask(model="gpt-9"),
            "host_not_allowed": await chat.door.client.get("/v1/models", headers={"Host": "elsewhere"}),
            "request_too_large": await chat.ask(odd="x" * 100_001),
        }
        statuses = [answer.status_code for answer in answers.values()]

        assert statuses == [401, 404, 404, 421, 413]
        for code, answer in answers.items():
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
            assert answer.json()["error"]["code"] == code


async def test_the_upstreams_key_and_address_are_nowhere_to_be_seen(
    sqlite: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    seen = []
    for case in ("refused", "our key is refused", "500", "stream", "stream that is cut", "usage above the hold"):
        say, *_ = PAID[case]
        async with chat_door(sqlite, tmp_path, say) as chat:
            for fields in ({}, {"stream": True}):
                answer = await chat.ask(**fields)
                seen += [answer.text, str(answer.headers)]
                address = chat.upstreams[0].url
                assert address not in answer.text
    echo = chunk({"content": f"the key is {KEY}"})
    async with chat_door(sqlite, tmp_path, stream(echo, DONE)) as chat:
        answer = await chat.ask(stream=True)
        assert b"the key is ***" in answer.content
        again = await chat.door.client.get(f"/api/v1/task/{answer.headers['x-task-id']}")
        seen += [answer.text, again.text]
    kept = (tmp_path / "queue.sqlite").read_bytes()

    assert KEY not in "".join(seen) + caplog.text
    assert KEY.encode() not in kept
