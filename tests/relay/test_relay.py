"""The next upstream is tried, what comes is passed on as it came, and nobody hears of a key."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from fluxserve.domain.completion import Rate
from fluxserve.domain.errors import TooMany, UnknownModel, UpstreamsFailed
from fluxserve.relay import Answer, BrokenOffError, Order, Relay, Route, Stream, Upstream, chat_order, fields_of
from fluxserve.relay.upstreams import Request
from tests.end_to_end.serving import free_port
from tests.relay.upstream import (
    DONE,
    HELLO,
    KEY,
    Say,
    Stub,
    completion,
    cut,
    hang,
    last_chunk,
    late,
    status,
    stream,
    stub,
    usage,
    whole,
)

pytestmark = pytest.mark.anyio

BODY = b'{ "messages":[{"role":"user","content":"h\\u00e9"}],\n"model" : "ours", "odd":  1.50 }'
TIMES = {"connect_seconds": 2.0, "first_byte_seconds": 0.3, "gap_seconds": 0.3, "answer_seconds": 0.6}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def order(relay: Relay, body: bytes = BODY, **more: Any) -> Order:
    return chat_order(relay.route("ours"), fields_of(body), **{"is_stream": False, **more})


@asynccontextmanager
async def relay_to(*urls: str, upstream_model: str = "ours", **times: float) -> AsyncIterator[Relay]:
    upstreams = tuple(Upstream(f"upstream-{n}", url, KEY, **{**TIMES, **times}) for n, url in enumerate(urls))
    relay = Relay([Route("ours", upstreams, Rate(0, 0), upstream_model, 100)])
    try:
        yield relay
    finally:
        await relay.close()


@asynccontextmanager
async def relayed(*scripts: Say, **more: Any) -> AsyncIterator[tuple[Relay, list[Stub]]]:
    """A relay to one upstream for each of the scripts."""
    async with AsyncExitStack() as stack:
        stubs = [await stack.enter_async_context(stub(script)) for script in scripts]
        relay = await stack.enter_async_context(relay_to(*(each.url for each in stubs), **more))
        yield relay, stubs


async def all_of(opened: Answer | Stream) -> bytes:
    assert isinstance(opened, Stream)
    parts = []
    try:
        while part := await opened.next():
            parts.append(part)
    finally:
        opened.close()
    return b"".join(parts)


async def test_a_request_goes_on_as_it_came_and_so_does_its_answer() -> None:
    said = completion(usage=usage(1, 2), unknown={"a": 1.50})
    async with relayed(whole(said)) as (relay, (there,)):
        answer = await relay.ask(order(relay))

    assert answer == Answer(200, "application/json", said)
    (heard,) = there.heard
    assert heard.body == BODY
    assert heard.path == "/v1/chat/completions"
    assert heard.headers["authorization"] == f"Bearer {KEY}"


async def test_only_the_models_name_is_changed_where_it_is_another_there() -> None:
    async with relayed(whole(completion()), upstream_model="theirs") as (relay, (there,)):
        await relay.ask(order(relay))

    assert there.heard[0].body == BODY.replace(b' "ours"', b'"theirs"')


async def test_a_stream_goes_on_as_it_came_and_is_asked_for_its_usage() -> None:
    parts = (*HELLO, last_chunk(usage(1, 2)), DONE)
    async with relayed(stream(*parts)) as (relay, (there,)):
        assert await all_of(await relay.ask(order(relay, is_stream=True))) == b"".join(parts)
        asks = {"include_usage": True, "x": 1}
        shown = BODY.replace(b' "odd"', b'"stream_options":{"include_usage":true,"x":1},"odd"')
        await all_of(await relay.ask(order(relay, shown, is_stream=True, options=asks)))
        hidden = BODY.replace(b' "odd"', b'"stream_options":{"x":1},"odd"')
        await all_of(await relay.ask(order(relay, hidden, is_stream=True, options={"x": 1})))

    added = BODY.replace(b" }", b' ,"stream_options":{"include_usage":true}}')
    assert [heard.body for heard in there.heard] == [
        added,
        shown,
        hidden.replace(b'{"x":1}', b'{"x":1,"include_usage":true}'),
    ]


async def test_each_piece_is_passed_on_when_it_comes() -> None:
    async with relayed(stream(*HELLO, gap=0.1)) as (relay, _):
        opened = await relay.ask(order(relay, is_stream=True))
        assert isinstance(opened, Stream)
        began, times = time.monotonic(), []
        while await opened.next():
            times.append(time.monotonic() - began)
        opened.close()

    assert len(times) == len(HELLO)
    assert times[0] < 0.1 < times[2]


FAULTS = {
    "429": status(429),
    "500": status(500),
    "503": status(503),
    "our key is refused": status(401),
    "no such model there": status(404),
    "a redirect": status(302, location="http://127.0.0.1:1/"),
    "cut": cut,
    "hang": hang,
}


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
async def test_when_one_fails_before_its_first_byte_the_next_is_tried(fault: str, is_stream: bool) -> None:
    good = stream(*HELLO, DONE) if is_stream else whole(completion())
    async with relayed(FAULTS[fault], good) as (relay, (bad, there)):
        opened = await relay.ask(order(relay, is_stream=is_stream))
        if isinstance(opened, Stream):
            assert await all_of(opened) == b"".join([*HELLO, DONE])
        else:
            assert opened == Answer(200, "application/json", completion())

    assert len(there.heard) == 1
    assert len(bad.heard) == (2 if fault == "cut" else 1)  # a kept connection may have been closed: once again


async def test_when_nobody_is_there_the_next_is_tried() -> None:
    async with stub(whole(completion())) as there, relay_to(f"http://127.0.0.1:{free_port()}/v1", there.url) as relay:
        assert isinstance(await relay.ask(order(relay)), Answer)


@pytest.mark.parametrize("say", [stream(), stream(hangs=True)], ids=["empty", "head only"])
async def test_a_stream_that_never_begins_is_not_one(say: Say) -> None:
    async with relayed(say, stream(*HELLO)) as (relay, _):
        assert await all_of(await relay.ask(order(relay, is_stream=True))) == b"".join(HELLO)


@pytest.mark.parametrize("number", [400, 413, 422])
async def test_what_is_wrong_with_the_request_is_told_as_it_came_but_for_the_key(number: int) -> None:
    async with relayed(status(number), whole(completion())) as (relay, (_, there)):
        answer = await relay.ask(order(relay))

    assert isinstance(answer, Answer)
    assert answer.status == number
    assert b"no: Bearer ***" in answer.data
    assert there.heard == []


async def test_when_all_fail_the_refusal_tells_nothing_of_the_house(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with relayed(status(401), status(500), cut) as (relay, stubs):
        with pytest.raises(UpstreamsFailed) as raised:
            await relay.ask(order(relay))

    told = raised.value.message + caplog.text
    assert "upstream-0" in caplog.text
    assert "status 500" in caplog.text
    assert "upstream" not in raised.value.message
    assert KEY not in told
    assert [each.url for each in stubs if each.url in raised.value.message] == []


async def test_when_all_are_asked_too_much_the_caller_is_told_when_to_come_again() -> None:
    async with relayed(status(429, retry_after="30"), status(429, retry_after="7")) as (relay, _):
        with pytest.raises(TooMany) as raised:
            await relay.ask(order(relay))
    async with relayed(status(429, retry_after="9" * 400), status(500)) as (relay, _):
        with pytest.raises(UpstreamsFailed):
            await relay.ask(order(relay))

    assert raised.value.retry_after == 7


async def test_an_unknown_model_is_refused() -> None:
    async with relay_to("http://127.0.0.1:1/v1") as relay:
        with pytest.raises(UnknownModel, match="model: there is no 'gpt-9'"):
            relay.route("gpt-9")
        assert relay.models == ("ours",)


@pytest.mark.parametrize("say", [stream(*HELLO, is_cut=True), stream(*HELLO, hangs=True)], ids=["cut", "hang"])
async def test_a_stream_that_breaks_off_is_told_apart_from_one_that_ends(say: Say) -> None:
    async with relayed(say) as (relay, _):
        opened = await relay.ask(order(relay, is_stream=True))
        with pytest.raises(BrokenOffError):
            await all_of(opened)


async def test_all_that_came_before_a_cut_is_passed_on() -> None:
    async with relayed(stream(*HELLO, gap=0.02, is_cut=True)) as (relay, _):
        opened = await relay.ask(order(relay, is_stream=True))
        assert isinstance(opened, Stream)
        await asyncio.sleep(0.2)  # the cut is there before anybody has looked
        parts = []
        with contextlib.suppress(BrokenOffError):
            while part := await opened.next():
                parts.append(part)
        opened.close()

    assert b"".join(parts) == b"".join(HELLO)


async def test_a_stream_that_is_closed_is_broken_off_at_the_upstream() -> None:
    async with relayed(stream(*HELLO, hangs=True)) as (relay, (there,)):
        opened = await relay.ask(order(relay, is_stream=True))
        assert isinstance(opened, Stream)
        await opened.next()
        opened.close()
        async with asyncio.timeout(2):
            while not there.left:
                await asyncio.sleep(0.01)


async def test_a_connection_serves_again() -> None:
    async with relayed(whole(completion())) as (relay, (there,)):
        for _ in range(5):
            await relay.ask(order(relay))

    assert (len(there.heard), there.connections) == (5, 1)


async def test_an_upstream_without_a_key_is_sent_none() -> None:
    async with stub(whole(completion())) as there:
        upstream = Upstream("open", there.url, None)
        await upstream.ask(Request("/chat/completions", "application/json", BODY, is_stream=False))
        await upstream.close()

    assert "authorization" not in there.heard[0].headers


async def test_a_key_that_an_upstream_says_is_not_passed_on() -> None:
    said = completion(f"your key is {KEY}")
    async with relayed(whole(said)) as (relay, _):
        answer = await relay.ask(order(relay))
    assert isinstance(answer, Answer)
    assert answer.data == said.replace(KEY.encode(), b"***")


async def test_a_slow_answer_is_waited_for_as_long_as_is_allowed() -> None:
    async with relayed(late(0.3, whole(completion()))) as (relay, _):
        assert isinstance(await relay.ask(order(relay)), Answer)
    async with relayed(late(5, whole(completion()))) as (relay, _):
        began = time.monotonic()
        with pytest.raises(UpstreamsFailed):
            await relay.ask(order(relay))
        assert time.monotonic() - began < 3
