"""OpenAI's APIs, as its pages and its SDKs have them."""

from fluxserve.api.dialects.openai.answers import refusal
from fluxserve.api.dialects.openai.images import create_images_app

__all__ = ["create_images_app", "refusal"]
