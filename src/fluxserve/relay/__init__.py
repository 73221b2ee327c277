"""The switchboard: chat completions to the upstreams that answer them, byte for byte.

It routes, fails over, reads streams as they pass, and counts tokens. It holds and settles no points, and knows no
accounts, database or dialect; callers never choose where it connects to.
"""

from fluxserve.relay.counting import Prompt, counted, prompt_of
from fluxserve.relay.editing import Fields, fields_of
from fluxserve.relay.relay import Order, Relay, Route
from fluxserve.relay.transcript import Transcript, said_in, usage_in
from fluxserve.relay.upstreams import Answer, BrokenOffError, Stream, Upstream

__all__ = [
    "Answer",
    "BrokenOffError",
    "Fields",
    "Order",
    "Prompt",
    "Relay",
    "Route",
    "Stream",
    "Transcript",
    "Upstream",
    "counted",
    "fields_of",
    "prompt_of",
    "said_in",
    "usage_in",
]
