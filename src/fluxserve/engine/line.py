"""The worker's end of the pipe to the server: frames in, frames out. What they mean is not its business."""

import os
import sys
from threading import Lock
from typing import BinaryIO

from fluxserve.domain.job import LARGEST_FRAME, LENGTH, Event, Message, dump, load


class FrameError(Exception):
    """What came through the pipe was not sent by a server of ours."""


class Line:
    """`receive` is for one thread, `send` for all."""

    def __init__(self, incoming: BinaryIO, outgoing: BinaryIO) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._writing = Lock()

    def send(self, event: Event) -> None:
        """Raises BrokenPipeError when the server is gone."""
        frame = dump(event)
        with self._writing:
            self._outgoing.write(frame)
            self._outgoing.flush()

    def receive(self) -> Message | None:
        """The next message; None when the server is gone."""
        start = self._incoming.read(LENGTH.size)
        if len(start) < LENGTH.size:
            return None
        (size,) = LENGTH.unpack(start)
        if size > LARGEST_FRAME:
            raise FrameError(f"a frame of {size} bytes")
        body = self._incoming.read(size)
        if len(body) < size:
            return None
        try:
            return load(body)
        except Exception as error:
            raise FrameError(f"{type(error).__name__}: {error}") from error


def take_standard_streams() -> Line:
    """A line over this process's standard input and output, which nobody else can use from now on.

    A library that prints would otherwise write into a frame: its words go to standard error instead.
    """
    incoming, outgoing = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    sys.stdout.flush()
    os.dup2(2, 1)
    return Line(os.fdopen(incoming, "rb"), os.fdopen(outgoing, "wb"))
