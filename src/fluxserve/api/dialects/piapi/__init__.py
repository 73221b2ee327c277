"""PiAPI's task API, as the vendor's pages describe it.

requests       what a body may hold: the task types and their fields
generations    a checked request to a generation
answers        the envelope, the numbers of refusals and failures
door           the routes
"""

from fluxserve.api.dialects.piapi.answers import ERROR_CODES
from fluxserve.api.dialects.piapi.door import create_app, no_route, refusal

__all__ = ["ERROR_CODES", "create_app", "no_route", "refusal"]
