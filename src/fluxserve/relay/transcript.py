"""What a stream has said so far: read as it passes, so that it can be counted, paid and fetched again.

A stream is server-sent events, whose data are chat.completion.chunk objects and at the end ``[DONE]``. What is put
together of them is the chat.completion object that the same request would have been answered with, had it asked for
no stream.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json

from fluxserve.domain.completion import Usage
from fluxserve.relay.counting import prompt_of

DONE = b"[DONE]"
END_OF_EVENT = re.compile(rb"\r\n\r\n|\n\n|\r\r")
LINE = re.compile(rb"\r\n|\n|\r")
MOST_TOKENS = 2**53
LARGEST_EVENT = 2**22  # bytes
MOST_BYTES = 2**24  # that are kept of a stream
JOINED = ("content", "refusal", "reasoning_content", "reasoning")  # texts of a delta that are parts of one


def usage_in(values: Any) -> Usage | None:
    """What an answer or a chunk says of its tokens; None if that can't be."""
    told = values.get("usage") if isinstance(values, dict) else None
    if not isinstance(told, dict):
        return None
    prompt: Any = told.get("prompt_tokens")
    completion: Any = told.get("completion_tokens")
    if not (_is_count(prompt) and _is_count(completion)):
        return None
    return Usage(int(prompt), int(completion))


def said_in(values: Any) -> int:
    """Bytes of text that the model wrote, in a chat.completion object."""
    choices = values.get("choices") if isinstance(values, dict) else None
    if not isinstance(choices, list):
        return 0
    messages = [choice.get("message") for choice in choices if isinstance(choice, dict)]
    return prompt_of(_texts(messages)).size


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= MOST_TOKENS


@dataclass(slots=True)
class Transcript:
    """`hides_usage` where its caller has not asked for the usage: the chunk that has nothing else is not passed on."""

    hides_usage: bool = False
    usage: Usage | None = None
    is_done: bool = False
    said: int = 0  # bytes of text
    _rest: bytes = b""
    _head: dict[str, Any] = field(default_factory=dict)
    _usage: Any = None
    _choices: dict[int, dict[str, Any]] = field(default_factory=dict)

    def take(self, part: bytes) -> bytes:
        """Read what has come. Returns what may be passed on: whole events, as they came. Raises ValueError."""
        data = self._rest + part
        passed, at = [], 0
        for end in END_OF_EVENT.finditer(data):
            event, at = data[at : end.end()], end.end()
            if self._read(event):
                passed.append(event)
        self._rest = data[at:]
        if len(self._rest) > LARGEST_EVENT:
            raise ValueError(f"an event of more than {LARGEST_EVENT} bytes")
        return b"".join(passed)

    def rest(self) -> bytes:
        """At the end of the stream: what came after its last whole event, which may be one more."""
        rest, self._rest = self._rest, b""
        return rest if rest.strip() and self._read(rest) else b""

    def answer(self) -> bytes | None:
        """The chat.completion object; None if there was no chunk of one, or it is too long to be kept."""
        if not self._head or self.said > MOST_BYTES:
            return None
        choices = [self._choices[index] for index in sorted(self._choices)]
        usage = {} if self._usage is None else {"usage": self._usage}
        whole = {**self._head, "object": "chat.completion", "choices": choices, **usage}
        return json.dumps(whole, ensure_ascii=False, separators=(",", ":")).encode()

    def _read(self, event: bytes) -> bool:
        """Whether it is to be passed on."""
        data = _data(event)
        if data == DONE:
            self.is_done = True
            return True
        try:
            chunk = from_json(data) if data else None
        except ValueError:
            return True
        if not isinstance(chunk, dict) or "choices" not in chunk:
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
            if self.said > MOST_BYTES:
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


def _data(event: bytes) -> bytes:
    """An event's data. Nearly all are one line."""
    lines = [line[5:].removeprefix(b" ") for line in LINE.split(event) if line.startswith(b"data:")]
    return lines[0].strip() if len(lines) == 1 else b"\n".join(lines).strip()


def _texts(delta: Any) -> Any:
    """What of a delta was written by the model: not its role, nor the names of fields."""
    if isinstance(delta, dict):
        return [_texts(value) for name, value in delta.items() if name not in ("role", "id", "type", "index")]
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
