"""Bytes come in pieces of any size, and whole events are made of them."""

import random

import pytest

from fluxserve.relay.events import LARGEST, Events, data_of

EVENTS = [b"data: a\n\n", b"event: x\r\ndata: b\r\n\r\n", b": a comment\n\n", b"data: c\r\r", b"data: d\ndata: e\n\n"]


@pytest.mark.parametrize("seed", range(20))
def test_events_are_the_same_however_they_are_cut(seed: int) -> None:
    chance, events, found = random.Random(seed), Events(), list[bytes]()
    data = b"".join(EVENTS * 3) + b"data: the last"
    while data:
        size = chance.randint(1, 9)
        found += events.take(data[:size])
        data = data[size:]

    assert found == EVENTS * 3
    assert events.rest() == b"data: the last"
    assert events.rest() == b""


def test_the_data_of_an_event_may_be_in_several_lines() -> None:
    assert [data_of(event) for event in EVENTS] == [b"a", b"b", b"", b"c", b"d\ne"]


def test_one_that_is_too_large_is_an_error() -> None:
    events = Events()
    events.take(b"data: " + b"x" * (LARGEST - 6))

    with pytest.raises(ValueError, match="an event of more than"):
        events.take(b"x")


def test_a_large_event_in_small_pieces_takes_no_longer_than_its_bytes() -> None:
    events, looked = Events(), 0
    for _ in range(1000):
        events.take(b"x" * 1000)
        looked += len(events._rest) - events._looked

    assert looked == 0
    assert events.take(b"\n\n") == [b"x" * 1_000_000 + b"\n\n"]
