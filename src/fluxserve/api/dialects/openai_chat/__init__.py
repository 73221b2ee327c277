"""OpenAI's API, as its own client libraries speak it.

requests   what a body may hold, as far as we read it
door       the routes
streaming  an answer that comes in pieces
answers    errors, and the sub-application that they are answered by
"""

from fluxserve.api.dialects.openai_chat.answers import no_route, refusal
from fluxserve.api.dialects.openai_chat.door import create_app

__all__ = ["create_app", "no_route", "refusal"]
