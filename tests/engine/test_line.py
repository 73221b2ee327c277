import os
import threading
from io import BytesIO

import pytest

from fluxserve.domain.generation import Generation
from fluxserve.domain.job import LARGEST_FRAME, LENGTH, Alive, Cancel, Job, Progress, dump
from fluxserve.engine.line import FrameError, Line


def test_messages_come_as_they_were_sent_and_then_none(circle: Generation) -> None:
    messages = (Job("task", circle), Cancel("task"))
    line = Line(BytesIO(dump(messages[0]) + dump(messages[1])), BytesIO())
    assert (line.receive(), line.receive(), line.receive()) == (*messages, None)


def test_a_frame_that_breaks_off_is_the_end() -> None:
    frame = dump(Cancel("task"))
    for length in range(len(frame)):
        assert Line(BytesIO(frame[:length]), BytesIO()).receive() is None


@pytest.mark.parametrize(
    "data",
    [
        LENGTH.pack(LARGEST_FRAME + 1),
        LENGTH.pack(3) + b"abc",
        LENGTH.pack(8) + LENGTH.pack(4) + b"what",
        LENGTH.pack(16) + LENGTH.pack(12) + b'["Magic",{}]',
        LENGTH.pack(17) + LENGTH.pack(13) + b'["Cancel",{}]',
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(FrameError):
        Line(BytesIO(data), BytesIO()).receive()


def test_frames_of_many_threads_stay_whole() -> None:
    outgoing, incoming = os.pipe()
    with os.fdopen(outgoing, "rb") as there, os.fdopen(incoming, "wb") as here:
        line = Line(BytesIO(), here)

        def send(name: str) -> None:
            for _ in range(50):
                line.send(Alive(name * 3000))

        senders = [threading.Thread(target=send, args=(name,)) for name in "abcd"]
        for sender in senders:
            sender.start()
        reader = Line(there, BytesIO())
        received = [reader.receive() for _ in range(200)]
        for sender in senders:
            sender.join()
    assert {message.doing for message in received if isinstance(message, Alive)} == {name * 3000 for name in "abcd"}
    assert len(received) == 200


def test_a_server_that_is_gone_is_told_by_a_broken_pipe() -> None:
    outgoing, incoming = os.pipe()
    os.close(outgoing)
    with os.fdopen(incoming, "wb", buffering=0) as here, pytest.raises(BrokenPipeError):
        Line(BytesIO(), here).send(Progress("task", 1, 2))
