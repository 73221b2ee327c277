"""A chat completion as it passes.

A stream of it is server-sent events, whose data are chat.completion.chunk objects and at the end ``[DONE]``. What is
put together of them is the chat.completion object that the same request would have been answered with, had it asked for
no stream.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fluxserve.domain.catalog import PictureKind
from fluxserve.domain.completion import Usage
from fluxserve.relay.counting import prompt_of
from fluxserve.relay.events import DONE, Events, data_of
from fluxserve.relay.transcript import MOST_KEPT, object_of, usage_in

JOINED = ("content", "refusal", "reasoning_content", "reasoning")  # texts of a delta that are parts of one
NO_TEXTS = ("role", "id", "type", "index", "images")
PICTURE = re.compile(r"!\[[^\]]*\]\((?:https?://|data:image/)")
A_PICTURE: PictureKind = ("medium", False)  # of what kind, no chat tells


@dataclass(slots=True)
class ChatTranscript:
    """`hides_usage` where its caller has not asked for the usage: the chunk that has nothing else is not passed on."""

    hides_usage: bool = False
    usage: Usage | None = None
    is_done: bool = False
    said: int = 0
    _events: Events = field(default_factory=Events)
    _head: dict[str, Any] = field(default_factory=dict)
    _usage: Any = None
    _choices: dict[int, dict[str, Any]] = field(default_factory=dict)

    @property
    def pictures(self) -> Sequence[PictureKind]:
        """One for each choice that has any."""
        return [A_PICTURE for choice in self._choices.values() if _has_picture(choice["message"])]

    @property
    def is_begun(self) -> bool:
        return self.said > 0 or bool(self.pictures)

    def take(self, part: bytes) -> bytes:
        return b"".join([event for event in self._events.take(part) if self._read(event)])

    def rest(self) -> bytes:
        rest = self._events.rest()
        return rest if rest and self._read(rest) else b""

    def read(self, data: bytes) -> None:
        values = object_of(data)
        self.usage = usage_in(values)
        if values is None:
            self.said = len(data)
            return
        choices = values.get("choices")
        for index, choice in enumerate(choices if isinstance(choices, list) else []):
            message = choice.get("message") if isinstance(choice, dict) else None
            self.said += prompt_of(_texts(message)).size
            self._choices[index] = {"message": message}

    def answer(self) -> bytes | None:
        if not self._head or self.said > MOST_KEPT:
            return None
        choices = [self._choices[index] for index in sorted(self._choices)]
        usage = {} if self._usage is None else {"usage": self._usage}
        whole = {**self._head, "object": "chat.completion", "choices": choices, **usage}
        return json.dumps(whole, ensure_ascii=False, separators=(",", ":")).encode()

    def _read(self, event: bytes) -> bool:
        """Whether it is to be passed on."""
        data = data_of(event)
        if data == DONE:
            self.is_done = True
            return True
        chunk = object_of(data) if data else None
        if chunk is None or "choices" not in chunk:
            return True
        if (usage := usage_in(chunk)) is not None:
            self.usage, self._usage = usage, chunk["usage"]
        choices = chunk["choices"]
        if not choices:
            return not (self.hides_usage and usage)
        if isinstance(choices, list):
            self._put_together(chunk, choices)
        return True

    def _put_together(self, chunk: dict[str, Any], choices: list[Any]) -> None:
        for name, value in chunk.items():
            if name not in ("choices", "usage", "object"):
                self._head.setdefault(name, value)
        for choice in choices:
            if not isinstance(choice, dict):
                continue
            delta = choice.get("delta")
            self.said += prompt_of(_texts(delta)).size
            if self.said > MOST_KEPT:
                return
            index = choice.get("index")
            kept = self._choices.setdefault(
                index if type(index) is int else 0,
                {"index": index, "message": {"role": "assistant", "content": None}, "finish_reason": None},
            )
            if choice.get("finish_reason") is not None:
                kept["finish_reason"] = choice["finish_reason"]
            if isinstance(delta, dict):
                _add(kept["message"], delta)


def _has_picture(message: Any) -> bool:
    """In the text, as an address, or beside it."""
    if not isinstance(message, dict):
        return False
    match message.get("content"):
        case str(text):
            is_told = PICTURE.search(text) is not None
        case list(parts):
            is_told = any(isinstance(part, dict) and part.get("type") == "image_url" for part in parts)
        case _:
            is_told = False
    return is_told or bool(message.get("images"))


def _texts(delta: Any) -> Any:
    """What of a delta was written by the model: not its role, nor the names of fields."""
    if isinstance(delta, dict):
        return [_texts(value) for name, value in delta.items() if name not in NO_TEXTS]
    return [_texts(value) for value in delta] if isinstance(delta, list) else delta


def _add(message: dict[str, Any], delta: dict[str, Any]) -> None:
    for name, value in delta.items():
        if value is None:
            continue
        if name in JOINED and isinstance(value, str):
            message[name] = (message.get(name) or "") + value
        elif name == "tool_calls" and isinstance(value, list):
            _add_calls(message.setdefault("tool_calls", []), value)
        elif name == "function_call" and isinstance(value, dict):
            _add_call(message.setdefault("function_call", {}), value)
        else:
            message[name] = value


def _add_calls(calls: list[dict[str, Any]], parts: list[Any]) -> None:
    for part in parts:
        if not isinstance(part, dict):
            continue
        index = part.get("index", len(calls))
        call = next((each for each in calls if each.get("index") == index), None)
        if call is None:
            calls.append(call := {"index": index})
        for name, value in part.items():
            if name == "function" and isinstance(value, dict):
                _add_call(call.setdefault("function", {}), value)
            elif value is not None:
                call[name] = value


def _add_call(call: dict[str, Any], part: dict[str, Any]) -> None:
    for name, value in part.items():
        if name == "arguments" and isinstance(value, str):
            call[name] = call.get(name, "") + value
        elif value is not None:
            call[name] = value
