"""What of a chat completion's request we read; all else goes on as it came, and the upstream judges it."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from fluxserve.api.fields import Incoming, Whole
from fluxserve.api.reading import checked, object_in
from fluxserve.api.switchboard import Call
from fluxserve.domain.completion import Usage
from fluxserve.relay import (
    A_PICTURE,
    ChatTranscript,
    Fields,
    Prompt,
    Route,
    chat_order,
    fields_of,
    prompt_of,
    shows_usage,
)

MOST_TOKENS = 2**31
MOST_CHOICES = 128


Tokens = Annotated[Whole, Field(ge=0, le=MOST_TOKENS)]


class ChatRequest(Incoming):
    """Fields that are not here are passed on."""

    model: str = Field(max_length=500, description="the name of a model, as GET /v1/models lists them")
    messages: list[dict[str, Any]] = Field(min_length=1, description="a list of at least one message")
    stream: bool | None = Field(None, description="true or false: whether the answer comes in pieces")
    stream_options: dict[str, Any] | None = Field(
        None, description="an object; its include_usage tells whether a stream ends with its usage"
    )
    max_completion_tokens: Tokens | None = Field(None, description=f"a whole number of tokens from 0 to {MOST_TOKENS}")
    max_tokens: Tokens | None = Field(None, description=f"a whole number of tokens from 0 to {MOST_TOKENS}")
    n: Annotated[Whole, Field(ge=1, le=MOST_CHOICES)] | None = Field(
        None, description=f"a whole number of answers from 1 to {MOST_CHOICES}"
    )


READ = frozenset(ChatRequest.model_fields)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request whose shape has been checked. `values` is all that it says."""

    values: dict[str, Any]
    request: ChatRequest
    fields: Fields
    prompt: Prompt

    @property
    def is_stream(self) -> bool:
        return self.request.stream is True

    def call(self, route: Route) -> Call:
        options, count = self.request.stream_options, self.request.n or 1
        wanted = (self.request.max_completion_tokens, self.request.max_tokens)
        most_output = count * max((each for each in wanted if each is not None), default=route.most_output_tokens)
        return Call(
            order=chat_order(route, self.fields, is_stream=self.is_stream, options=options),
            prompt=self.prompt,
            transcript=ChatTranscript(hides_usage=not shows_usage(options)),
            most=route.rate.price(Usage(self.prompt.most_tokens, most_output), [A_PICTURE] * count),
        )


def read(body: bytes) -> Asked:
    """Raises `InvalidInput`."""
    values = object_in(body)
    request = checked(ChatRequest, values)
    return Asked(values, request, fields_of(body, READ), prompt_of(values))
