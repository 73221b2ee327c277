"""Server-sent events, taken apart as they pass."""

import re

DONE = b"[DONE]"  # the data of OpenAI's last event
LARGEST = 2**25  # bytes: a large picture in base64 is one event
END = re.compile(rb"\r\n\r\n|\n\n|\r\r")
LONGEST_END = 4
LINE = re.compile(rb"\r\n|\n|\r")


class Events:
    """Bytes as they come, to whole events. What has been looked through is not looked through again."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._looked = 0

    def take(self, part: bytes) -> list[bytes]:
        """The events that are whole by now, as they came. Raises ValueError when one is too large."""
        self._rest += part
        events, at = [], 0
        for end in END.finditer(self._rest, max(0, self._looked - LONGEST_END + 1)):
            events.append(bytes(self._rest[at : end.end()]))
            at = end.end()
        del self._rest[:at]
        self._looked = len(self._rest)
        if self._looked > LARGEST:
            raise ValueError(f"an event of more than {LARGEST} bytes")
        return events

    def rest(self) -> bytes:
        """At the end of the stream: what came after its last whole event, which may be one more."""
        rest, self._rest = bytes(self._rest), bytearray()
        return rest if rest.strip() else b""


def data_of(event: bytes) -> bytes:
    """Nearly all events have one line of it."""
    lines = [line[5:].removeprefix(b" ") for line in LINE.split(event) if line.startswith(b"data:")]
    return lines[0].strip() if len(lines) == 1 else b"\n".join(lines).strip()
