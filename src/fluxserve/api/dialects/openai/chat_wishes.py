"""What a conversation that shall end with a picture comes to.

What is drawn is what the last message of the user says. A picture that comes with it is changed so, or several side by
side; without one it is the last picture of the conversation, if there is any, that is changed.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fluxserve.api.dialects.openai.image_requests import MOST_IMAGES
from fluxserve.domain.errors import InvalidInput

LONGEST_PROMPT = 32_000
PICTURE = re.compile(r"!\[[^\]]*\]\((https?://[^)\s]+)\)")  # as an answer of ours has it
ALLOWED = (
    'allowed is a text, or a list of {"type": "text", "text": …} and {"type": "image_url", "image_url": {"url": …}}'
)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a conversation comes to. `images` are addresses, data URIs or base64."""

    prompt: str
    images: tuple[str, ...]


def wish_of(messages: Sequence[Mapping[str, Any]]) -> Wish:
    """Raises `InvalidInput`."""
    seen: list[str] = []  # the pictures of the last message that has any
    prompt, images = "", list[str]()
    for number, message in enumerate(messages):
        texts, images = _parts(f"messages.{number}.content", message.get("content"))
        if message.get("role") == "user":
            prompt = "\n".join(texts).strip()
        else:
            images = [*images, *(url for text in texts for url in PICTURE.findall(text)[-1:])]
        seen = images or seen
    last = f"messages.{len(messages) - 1}"
    if messages[-1].get("role") != "user":
        raise InvalidInput(f"{last}.role", messages[-1].get("role"), 'allowed is "user" in the last message')
    if not prompt or len(prompt) > LONGEST_PROMPT or "\0" in prompt:
        raise InvalidInput(f"{last}.content", prompt, f"allowed are 1 to {LONGEST_PROMPT} characters of what to draw")
    if len(seen) > MOST_IMAGES:
        raise InvalidInput(f"{last}.content", f"{len(seen)} pictures", f"allowed are {MOST_IMAGES}")
    return Wish(prompt, tuple(seen))


def _parts(field: str, content: Any) -> tuple[list[str], list[str]]:
    """The texts and the pictures of a message's content."""
    if content is None or isinstance(content, str):
        return [content or ""], []
    texts, images = list[str](), list[str]()
    for part in content if isinstance(content, list) else [content]:
        match part:
            case {"type": "text", "text": str(text)}:
                texts.append(text)
            case {"type": "image_url", "image_url": {"url": str(url)} | str(url)}:
                images.append(url)
            case _:
                raise InvalidInput(field, part, ALLOWED)
    return texts, images
