"""How many tokens there are where no upstream has said: a rule that anybody can follow with a text in hand.

A token is four bytes of UTF-8, which is what it is on average in English, and a picture is a thousand. At most, a token
is one byte, for there is none shorter, and a picture three thousand: so much is held.
"""

from dataclasses import dataclass
from typing import Any

BYTES_OF_A_TOKEN = 4
TOKENS_OF_A_PICTURE = 1000
MOST_TOKENS_OF_A_PICTURE = 3000
PICTURE = "image_url"  # the type of a message's part, whose address may be the whole picture


@dataclass(frozen=True, slots=True)
class Prompt:
    """What an upstream is given to read: bytes of text, names of fields among them, and pictures."""

    size: int
    pictures: int

    @property
    def most_tokens(self) -> int:
        return self.size + self.pictures * MOST_TOKENS_OF_A_PICTURE

    @property
    def tokens(self) -> int:
        return counted(self.size) + self.pictures * TOKENS_OF_A_PICTURE


def counted(size: int) -> int:
    """Tokens in so many bytes of text, rounded up."""
    return -(-size // BYTES_OF_A_TOKEN)


def prompt_of(values: Any) -> Prompt:
    """Of a request's body, or of a part of one."""
    size = pictures = 0
    left = [values]  # instead of a call for each: how deep it goes is the caller's to say
    while left:
        match left.pop():
            case str(text):
                size += size_of(text)
            case {"type": str(kind)} if kind == PICTURE:
                pictures += 1
            case dict(fields):
                size += sum(size_of(name) for name in fields)
                left.extend(fields.values())
            case list(items):
                left.extend(items)
    return Prompt(size, pictures)


def size_of(text: str) -> int:
    """Bytes of UTF-8. What is ASCII, as nearly all of a long text is, is not copied for it."""
    return len(text) if text.isascii() else len(text.encode())
