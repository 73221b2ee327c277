"""Where the fields of a JSON object lie in its bytes, so that one can be exchanged and every other byte stays.

An upstream reads the body with another parser than ours. Where a field comes twice the two might take different ones:
we would price one model, and it would run another. Such bodies are refused.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from fluxserve.domain.errors import InvalidInput

BACKSLASH = ord("\\")


@dataclass(frozen=True, slots=True)
class Fields:
    """A JSON object as it came, and where the value of each of its fields begins and ends."""

    body: bytes
    places: Mapping[str, tuple[int, int]]

    def with_value(self, name: str, value: object) -> "Fields":
        """The same object with another value of that field, which is added at its end if there is none."""
        written = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        if name in self.places:
            start, end = self.places[name]
            body = self.body[:start] + written + self.body[end:]
        else:
            close = self.body.rindex(b"}")
            comma = b"," if self.places else b""
            body = b"".join([self.body[:close], comma, json.dumps(name).encode(), b":", written, self.body[close:]])
        return fields_of(body)


def fields_of(body: bytes, known: frozenset[str] = frozenset()) -> Fields:
    """Of a body that is known to be a JSON object. Raises `InvalidInput` if a field comes twice, or if one is written
    as none of `known` is but for small and capital letters, which some parsers take for the same.
    """
    places: dict[str, tuple[int, int]] = {}
    seen: dict[str, str] = {}
    name, start, depth, at = None, 0, 0, 0
    while (quote := body.find(b'"', at)) != -1:  # from string to string: what is between two is mostly short
        between = body[at:quote]
        depth += between.count(b"{") + between.count(b"[") - between.count(b"}") - between.count(b"]")
        end = _end_of_string(body, quote)
        if depth == 1 and between.rstrip()[-1:] in (b"{", b","):  # so it is a field's name
            if name is not None:
                places[name] = start, at + between.rindex(b",")
            name = str(json.loads(body[quote:end]))
            _check(name, seen, known)
            start = end = body.index(b":", end) + 1
        at = end
    if name is not None:
        places[name] = start, body.rindex(b"}")
    return Fields(body, places)


def _check(name: str, seen: dict[str, str], known: frozenset[str]) -> None:
    folded = name.casefold()
    if folded in seen:
        raise InvalidInput(name, "a second value", f"it came already, as {seen[folded]}; allowed is each field once")
    if folded in known and name not in known:
        raise InvalidInput(name, "this spelling", f"allowed is {folded}")
    seen[folded] = name


def _end_of_string(body: bytes, quote: int) -> int:
    """Behind the quote that ends the string that begins at `quote`."""
    end = body.index(b'"', quote + 1)
    while _is_escaped(body, end):
        end = body.index(b'"', end + 1)
    return end + 1


def _is_escaped(body: bytes, place: int) -> bool:
    first = place
    while body[first - 1] == BACKSLASH:
        first -= 1
    return (place - first) % 2 == 1
