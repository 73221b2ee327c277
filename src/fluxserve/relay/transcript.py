"""What an answer has said so far: read as it passes, so that it can be counted, paid and fetched again."""

from collections.abc import Sequence
from typing import Any, Protocol

from pydantic_core import from_json

from fluxserve.domain.catalog import PictureKind
from fluxserve.domain.completion import Usage

MOST_KEPT = 2**24  # bytes of an answer that is kept
MOST_TOKENS = 2**53


class Transcript(Protocol):
    """Of an answer that comes in pieces, each given to `take`, or whole, to `read`."""

    usage: Usage | None  # as the upstream tells it
    said: int  # bytes of text
    is_done: bool  # all was said, whether or not the stream has ended

    @property
    def pictures(self) -> Sequence[PictureKind]: ...

    @property
    def is_begun(self) -> bool:
        """Whether there is anything to be paid for."""

    def take(self, part: bytes) -> bytes:
        """Read what has come. Returns what may be passed on: whole events, as they came. Raises ValueError."""

    def rest(self) -> bytes:
        """At the end of the stream: what may be passed on of what came after its last whole event."""

    def read(self, data: bytes) -> None:
        """A whole answer."""

    def answer(self) -> bytes | None:
        """What the same request would have been answered with, had it asked for no stream; None if there was nothing
        of it, or it is too long to be kept."""


def usage_in(values: Any) -> Usage | None:
    """What an answer or a chunk says of its tokens; None if that can't be."""
    told = values.get("usage") if isinstance(values, dict) else None
    if not isinstance(told, dict):
        return None
    prompt: Any = told.get("prompt_tokens", told.get("input_tokens"))
    completion: Any = told.get("completion_tokens", told.get("output_tokens"))
    if not (_is_count(prompt) and _is_count(completion)):
        return None
    return Usage(int(prompt), int(completion))


def object_of(data: bytes) -> dict[str, Any] | None:
    """A JSON object; None if it is none."""
    try:
        values = from_json(data)
    except ValueError:
        return None
    return values if isinstance(values, dict) else None


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= MOST_TOKENS
