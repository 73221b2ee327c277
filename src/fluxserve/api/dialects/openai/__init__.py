"""OpenAI's APIs, as its pages and its SDKs have them.

chat            the routes of chat completions, and the models that there are
chat_requests   what a body of theirs may hold, as far as we read it
chat_stream     a relayed answer that comes in pieces
chat_pictures   gpt-4o-image: a conversation that ends in a picture
images          the routes of pictures
image_requests  what a request for pictures may hold
image_drawing   a checked request to a generation
image_stream    pictures as they are drawn
usage           tokens of pictures
answers         errors, and the sub-applications that they are answered by
"""

from fluxserve.api.dialects.openai.answers import no_route, refusal
from fluxserve.api.dialects.openai.chat import create_chat_app
from fluxserve.api.dialects.openai.images import create_images_app

__all__ = ["create_chat_app", "create_images_app", "no_route", "refusal"]
