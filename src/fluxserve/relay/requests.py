"""What an upstream is sent for what a caller asked: the same, but for what must be another there."""

from collections.abc import Mapping, Sequence
from typing import Any

import httpx2

from fluxserve.relay.editing import Fields
from fluxserve.relay.relay import Order, Route
from fluxserve.relay.upstreams import JSON, Request

File = tuple[str, tuple[str, bytes, str]]  # of a form: the field, and the file's name, bytes and content type


def chat_order(route: Route, fields: Fields, *, is_stream: bool, options: Mapping[str, Any] | None = None) -> Order:
    """`options` are the request's stream_options. A stream is always asked for its usage."""
    if route.upstream_model != route.model:
        fields = fields.with_value("model", route.upstream_model)
    if is_stream and not shows_usage(options):
        fields = fields.with_value("stream_options", {**(options or {}), "include_usage": True})
    return Order(route, Request("/chat/completions", JSON, fields.body, is_stream))


def shows_usage(options: Mapping[str, Any] | None) -> bool:
    """Whether a stream's caller wants its usage, in a chunk of its own."""
    return options is not None and options.get("include_usage") is True


def generation_order(route: Route, fields: Fields, *, is_stream: bool) -> Order:
    fields = fields.with_value("model", route.upstream_model)
    return Order(route, Request("/images/generations", JSON, fields.body, is_stream))


def edit_order(route: Route, texts: Mapping[str, str], files: Sequence[File], *, is_stream: bool) -> Order:
    """A form is made anew, of what we read in it: no other parser can find another model there."""
    form = httpx2.Request("POST", "http://upstream", data={**texts, "model": route.upstream_model}, files=list(files))
    return Order(route, Request("/images/edits", form.headers["Content-Type"], form.read(), is_stream))
