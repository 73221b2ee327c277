"""Requests for pictures that are relayed: what of them we read, so that they can be paid for. All else goes on as it
came, and the upstream judges it.
"""

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import Field

from fluxserve.api.dialects.openai.image_requests import OWN_MODELS, Number, Truth
from fluxserve.api.dialects.openai.usage import MOST_OUTPUT_TOKENS
from fluxserve.api.fields import Incoming
from fluxserve.api.reading import Form, checked
from fluxserve.api.switchboard import Call
from fluxserve.domain.catalog import PICTURE_KINDS, PictureKind, Quality
from fluxserve.domain.completion import Usage
from fluxserve.relay import (
    Order,
    PictureTranscript,
    Prompt,
    Relay,
    Route,
    edit_order,
    fields_of,
    generation_order,
    prompt_of,
)


class Relayed(Incoming):
    """Fields that are not here are passed on."""

    n: Number | None = Field(None, ge=1, le=10, description="a whole number of pictures from 1 to 10")
    size: str | None = Field(None, description="a text")
    quality: str | None = Field(None, description="a text")
    stream: Truth | None = Field(None, description="true or false")

    def kinds(self) -> list[PictureKind]:
        """That the pictures may be of, the most usual first."""
        qualities = (self.quality,) if self.quality in get_args(Quality) else get_args(Quality)
        sides = (self.size or "").split("x")
        shapes = (len(set(sides)) > 1,) if len(sides) > 1 else (False, True)
        kinds = [kind for kind in PICTURE_KINDS if kind[0] in qualities and kind[1] in shapes]
        return sorted(kinds, key=lambda kind: (kind[0] != "medium", kind[1]))


READ = frozenset(("model", *Relayed.model_fields))


def route_of(relay: Relay, values: Mapping[str, Any]) -> Route | None:
    """That a request's pictures are relayed by; None if they are drawn here."""
    model = values.get("model") or OWN_MODELS[0]
    return relay.find(model) if isinstance(model, str) else None


def generation(route: Route, body: bytes, values: dict[str, Any]) -> Call:
    """Raises `InvalidInput`."""
    asked = checked(Relayed, values)
    order = generation_order(route, fields_of(body, READ), is_stream=asked.stream is True)
    return _call(order, prompt_of(values), asked)


def edit(route: Route, form: Form) -> Call:
    """Raises `InvalidInput`."""
    asked = checked(Relayed, form.texts)
    files = [(name, (file.name, file.data, file.content_type)) for name, each in form.files.items() for file in each]
    order = edit_order(route, form.texts, files, is_stream=asked.stream is True)
    return _call(order, Prompt(prompt_of(form.texts).size, len(files)), asked)


def _call(order: Order, prompt: Prompt, asked: Relayed) -> Call:
    count, kinds, rate = asked.n or 1, asked.kinds(), order.route.rate
    dearest = max(kinds, key=lambda kind: rate.pictures.get(kind, 0))
    return Call(
        order=order,
        prompt=prompt,
        transcript=PictureTranscript(count, asked=kinds[0]),
        most=rate.price(Usage(prompt.most_tokens, count * MOST_OUTPUT_TOKENS), [dearest] * count),
    )
