"""A stream is read as it passes: what of it is passed on, what it used, and what it comes to."""

import json
from typing import Any

import pytest

from fluxserve.domain.completion import Usage
from fluxserve.relay import ChatTranscript
from fluxserve.relay.transcript import usage_in
from tests.relay.upstream import DONE, HELLO, chunk, last_chunk, usage

TOLD = usage(19, 9)
STREAM = b"".join([*HELLO, last_chunk(TOLD), DONE])


def passed(transcript: ChatTranscript, parts: list[bytes]) -> bytes:
    return b"".join([*(transcript.take(part) for part in parts), transcript.rest()])


def answer(transcript: ChatTranscript) -> dict[str, Any]:
    data = transcript.answer()
    assert data is not None
    values: dict[str, Any] = json.loads(data)
    return values


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100, 10_000])
def test_a_stream_is_passed_on_as_it_came_however_it_is_cut_into_pieces(size: int) -> None:
    transcript = ChatTranscript()

    assert passed(transcript, [STREAM[at : at + size] for at in range(0, len(STREAM), size)]) == STREAM

    assert transcript.usage == Usage(19, 9)
    assert transcript.is_done
    assert transcript.said == len("Hello!")
    assert answer(transcript) == {
        "id": "chatcmpl-1",
        "created": 1,
        "model": "there",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello!"}, "finish_reason": "stop"}],
        "usage": TOLD,
    }


@pytest.mark.parametrize("ending", [b"\r\n", b"\r"])
def test_lines_may_end_in_every_way_that_events_allow(ending: bytes) -> None:
    data, transcript = STREAM.replace(b"\n", ending), ChatTranscript()

    assert passed(transcript, [data]) == data
    assert (transcript.usage, transcript.said) == (Usage(19, 9), 6)


def test_the_usage_that_nobody_asked_for_is_read_and_not_passed_on() -> None:
    transcript = ChatTranscript(hides_usage=True)

    assert passed(transcript, [STREAM]) == b"".join([*HELLO, DONE])
    assert transcript.usage == Usage(19, 9)


def test_usage_in_a_chunk_that_says_something_is_passed_on_all_the_same() -> None:
    data = chunk({"content": "a"}, usage=TOLD)

    assert passed(transcript := ChatTranscript(hides_usage=True), [data]) == data
    assert transcript.usage == Usage(19, 9)


def test_whatever_is_no_chunk_is_passed_on_as_it_came() -> None:
    data = b': a comment\n\nevent: x\ndata: {"error": {"message": "m"}}\n\ndata: {nonsense\n\ndata: [1]\n\ndata\n\nlast'
    transcript = ChatTranscript(hides_usage=True)

    assert passed(transcript, [data]) == data
    assert (transcript.answer(), transcript.usage, transcript.said) == (None, None, 0)


def test_nothing_that_a_chunk_may_hold_breaks_it() -> None:
    odd: list[Any] = [
        [],
        [1],
        [{}],
        [{"delta": None}],
        [{"delta": {"content": 1, "tool_calls": [1]}, "index": "x"}],
        "x",
    ]
    for choices in odd:
        data = b"data: " + json.dumps({"choices": choices}).encode() + b"\n\n"
        assert passed(ChatTranscript(), [data]) == data


def test_choices_and_calls_of_tools_are_put_together() -> None:
    def part(index: int, **delta: Any) -> bytes:
        body = {"id": "c", "choices": [{"index": index, "delta": delta, "finish_reason": None}]}
        return b"data: " + json.dumps(body).encode() + b"\n\n"

    call = {"index": 0, "id": "call-1", "type": "function", "function": {"name": "draw", "arguments": ""}}
    transcript = ChatTranscript()
    passed(
        transcript,
        [
            part(1, content="b"),
            part(0, role="assistant", tool_calls=[call]),
            part(0, tool_calls=[{"index": 0, "function": {"arguments": '{"a'}}]),
            part(0, tool_calls=[{"index": 0, "function": {"arguments": '":1}'}}]),
            part(1, content="c", reasoning_content="so"),
            part(1, reasoning_content=" it is"),
        ],
    )

    first, second = answer(transcript)["choices"]
    assert first["message"]["tool_calls"] == [
        {"index": 0, "id": "call-1", "type": "function", "function": {"name": "draw", "arguments": '{"a":1}'}}
    ]
    assert (second["message"]["content"], second["message"]["reasoning_content"]) == ("bc", "so it is")
    assert transcript.said == len('draw{"a":1}bcso it is')


def test_an_event_without_an_end_is_not_kept_for_ever() -> None:
    transcript = ChatTranscript()
    for _ in range(33):
        assert transcript.take(b"x" * 1_000_000) == b""

    with pytest.raises(ValueError, match="an event of more than"):
        transcript.take(b"x" * 1_000_000)


@pytest.mark.parametrize(
    "told",
    [
        None, 5, [], {}, {"prompt_tokens": 1}, usage(-1, 1), usage(1, -1), usage(1.5, 1), usage("1", 1), usage(True, 1),
        usage(1, None), usage(2**54, 1),
    ],
)  # fmt: skip
def test_usage_that_cant_be_is_none(told: Any) -> None:
    assert usage_in({"usage": told}) is None
    assert usage_in([]) is None
