"""The switchboard: chat completions, and pictures, to the upstreams that answer for them.

It routes, fails over, reads answers as they pass, and counts tokens. It holds and settles no points, and knows no
accounts, database or dialect; callers never choose where it connects to.
"""

from fluxserve.relay.chat_transcript import A_PICTURE, ChatTranscript
from fluxserve.relay.counting import Prompt, counted, prompt_of
from fluxserve.relay.editing import Fields, fields_of
from fluxserve.relay.picture_transcript import PictureTranscript
from fluxserve.relay.relay import Order, Relay, Route
from fluxserve.relay.requests import File, chat_order, edit_order, generation_order, shows_usage
from fluxserve.relay.transcript import MOST_KEPT, Transcript, object_of
from fluxserve.relay.upstreams import Answer, BrokenOffError, Stream, Upstream

__all__ = [
    "A_PICTURE",
    "MOST_KEPT",
    "Answer",
    "BrokenOffError",
    "ChatTranscript",
    "Fields",
    "File",
    "Order",
    "PictureTranscript",
    "Prompt",
    "Relay",
    "Route",
    "Stream",
    "Transcript",
    "Upstream",
    "chat_order",
    "counted",
    "edit_order",
    "fields_of",
    "generation_order",
    "object_of",
    "prompt_of",
    "shows_usage",
]
