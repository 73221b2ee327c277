"""Pictures as they pass, each in base64.

A stream of them is server-sent events: looks at a picture (``….partial_image``), and then the picture itself
(``….completed``), which has the usage too. There is no other end.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fluxserve.domain.catalog import PictureKind
from fluxserve.domain.completion import Usage
from fluxserve.relay.events import Events, data_of
from fluxserve.relay.transcript import MOST_KEPT, object_of, usage_in

KEPT = ("background", "output_format", "quality", "size", "usage")
QUALITIES = ("low", "medium", "high")


@dataclass(slots=True)
class PictureTranscript:
    """Of `count` pictures, which are of the `asked` kind unless the upstream tells of another."""

    count: int
    asked: PictureKind
    usage: Usage | None = None
    is_done: bool = False
    said: int = 0  # pictures have no text
    _events: Events = field(default_factory=Events)
    _pictures: list[PictureKind] = field(default_factory=list)
    _is_looked_at: bool = False  # the next picture
    _size: int = 0
    _data: list[dict[str, Any]] = field(default_factory=list)
    _head: dict[str, Any] = field(default_factory=dict)

    @property
    def pictures(self) -> Sequence[PictureKind]:
        """Those that came, and the one that a look came of: who has seen that pays for it."""
        return [*self._pictures, *([self.asked] if self._is_looked_at and not self.is_done else ())]

    @property
    def is_begun(self) -> bool:
        return bool(self.pictures)

    def take(self, part: bytes) -> bytes:
        events = self._events.take(part)
        for event in events:
            self._read(event)
        return b"".join(events)

    def rest(self) -> bytes:
        rest = self._events.rest()
        self._read(rest)
        return rest

    def read(self, data: bytes) -> None:
        values = object_of(data) or {}
        self.usage = usage_in(values)
        pictures = values.get("data")
        came = len(pictures) if isinstance(pictures, list) else 0
        self._pictures = [self._kind(values)] * min(came, self.count)

    def answer(self) -> bytes | None:
        if not self._data or self._size > MOST_KEPT:
            return None
        return json.dumps({**self._head, "data": self._data}, separators=(",", ":")).encode()

    def _read(self, event: bytes) -> None:
        values = object_of(data_of(event)) or {}
        kind = values.get("type")
        if not isinstance(kind, str):
            return
        if kind.endswith(".partial_image"):
            self._is_looked_at = True
        elif kind.endswith(".completed") and not self.is_done:
            self._is_looked_at = False
            self._pictures.append(self._kind(values))
            self.usage = usage_in(values) or self.usage
            self._keep(values)
            self.is_done = len(self._pictures) == self.count

    def _keep(self, values: dict[str, Any]) -> None:
        self._head = {"created": values.get("created_at"), **{name: values[name] for name in KEPT if name in values}}
        picture = values.get("b64_json")
        self._size += len(picture) if isinstance(picture, str) else 0
        if self._size <= MOST_KEPT:
            self._data.append({"b64_json": picture})

    def _kind(self, values: dict[str, Any]) -> PictureKind:
        quality, size = values.get("quality"), values.get("size")
        of_quality = quality if quality in QUALITIES else self.asked[0]
        sides = size.split("x") if isinstance(size, str) and "x" in size else []
        return of_quality, (len(set(sides)) > 1 if sides else self.asked[1])
