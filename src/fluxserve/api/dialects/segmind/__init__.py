"""Segmind's API for flux-fill-dev, as the vendor's pages describe it.

requests       what a body may hold, as JSON or as a form
generations    a checked request to a generation
answers        headers, bodies, the numbers of refusals and failures
door           the routes
"""

from fluxserve.api.dialects.segmind.answers import HEADERS, refusal
from fluxserve.api.dialects.segmind.door import PATHS, create_app

__all__ = ["HEADERS", "PATHS", "create_app", "refusal"]
