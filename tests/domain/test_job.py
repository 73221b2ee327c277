"""Messages cross the pipe unchanged, and a broken frame is an error and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxserve.domain import job as wire
from fluxserve.domain.job import (
    Alive,
    Cancel,
    Cancelled,
    Done,
    Failed,
    Holds,
    Job,
    Message,
    Picture,
    Progress,
    Ready,
    Started,
)
from tests.domain.test_generation import generations

names = st.text(max_size=40)
members = st.lists(names, max_size=4).map(tuple)
pictures = st.builds(Picture, data=st.binary(), width=st.integers(1), height=st.integers(1), seed=st.integers(0))
messages = st.one_of(
    st.builds(Job, names, generations, st.dictionaries(names, st.binary(), max_size=3)),
    st.builds(Cancel, names),
    st.builds(Ready, names, members),
    st.builds(Holds, members),
    st.builds(Alive, names),
    st.builds(Started, names),
    st.builds(Progress, names, st.integers(0), st.integers(1), st.binary()),
    st.builds(Done, names, st.lists(pictures, max_size=4).map(tuple), st.floats(0, 1e9)),
    st.builds(Failed, names, names, names),
    st.builds(Cancelled, names),
)


@given(messages)
def test_a_frame_gives_an_equal_message_back(message: Message) -> None:
    frame = wire.dump(message)
    (length,) = wire.LENGTH.unpack(frame[: wire.LENGTH.size])

    assert length == len(frame) - wire.LENGTH.size
    assert wire.load(frame[wire.LENGTH.size :]) == message


def test_a_preview_crosses_as_the_bytes_it_is() -> None:
    preview = bytes(range(256))

    assert wire.dump(Progress("task", 1, 4, preview)).endswith(preview)
    assert len(wire.dump(Progress("task", 1, 4))) < 100


@pytest.mark.parametrize("body", [b"\0\0\0\2{}", b"\0\0\0\7[1, 2]", b'\0\0\0\x0e["os.system",1]'])
def test_a_frame_that_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        wire.load(body)
