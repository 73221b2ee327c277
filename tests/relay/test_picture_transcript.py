"""Pictures are counted as they pass, each with what the upstream tells of it."""

import json
from typing import Any

from fluxserve.domain.completion import Usage
from fluxserve.relay import PictureTranscript
from tests.relay.upstream import look, pictures

TOLD = {"input_tokens": 5, "output_tokens": 272, "total_tokens": 277}


def answer(transcript: PictureTranscript) -> dict[str, Any]:
    data = transcript.answer()
    assert data is not None
    values: dict[str, Any] = json.loads(data)
    return values


def test_a_stream_is_done_with_its_last_picture_and_passed_on_as_it_came() -> None:
    transcript = PictureTranscript(2, asked=("medium", False))
    parts = [
        look("partial_image", "a look", partial_image_index=0),
        look("completed", "one", usage=TOLD, quality="low", size="1024x1536"),
        look("completed", "two", usage=TOLD, quality="high", size="1024x1024"),
    ]

    assert [transcript.take(part) for part in parts] == parts

    assert transcript.is_done
    assert transcript.pictures == [("low", True), ("high", False)]
    assert transcript.usage == Usage(5, 272)
    said = answer(transcript)
    assert [each["b64_json"] for each in said["data"]] == ["one", "two"]
    assert (said["quality"], said["size"], said["usage"]) == ("high", "1024x1024", TOLD)


def test_what_was_looked_at_counts_until_it_is_there() -> None:
    transcript = PictureTranscript(1, asked=("high", True))
    assert not transcript.is_begun

    transcript.take(look("partial_image", "a look", quality="low"))
    assert transcript.pictures == [("high", True)]

    transcript.take(look("completed", "it", quality="low", size="1024x1024"))
    assert transcript.pictures == [("low", False)]


def test_a_whole_answer_tells_the_kind_of_its_pictures_and_how_many() -> None:
    for told, came in (
        ({"quality": "low", "size": "1536x1024"}, ("low", True)),
        ({"quality": "standard", "size": "1024x1024"}, ("medium", False)),
        ({"quality": 5, "size": None}, ("medium", True)),
        ({}, ("medium", True)),
    ):
        transcript = PictureTranscript(3, asked=("medium", True))
        transcript.read(pictures("a", "b", usage=TOLD, **told))
        assert transcript.pictures == [came, came]
        assert transcript.usage == Usage(5, 272)


def test_no_more_are_counted_than_were_asked_for_and_none_where_there_are_none() -> None:
    many = PictureTranscript(1, asked=("low", False))
    many.read(pictures("a", "b", "c"))
    assert many.pictures == [("low", False)]

    for data in (b"no JSON", b"[]", b"{}", b'{"data": 5}', b'{"data": []}'):
        none = PictureTranscript(1, asked=("low", False))
        none.read(data)
        assert (none.pictures, none.usage, none.answer()) == ([], None, None)


def test_nothing_that_an_event_may_hold_breaks_it() -> None:
    odd: list[Any] = [[], 5, {"type": 5}, {"type": "image_generation.completed", "quality": [], "size": {}, "usage": 1}]
    for values in odd:
        data = b"data: " + json.dumps(values).encode() + b"\n\n"
        assert PictureTranscript(1, asked=("low", False)).take(data) == data
