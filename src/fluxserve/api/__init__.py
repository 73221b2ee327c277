"""The doors. Each translates its vendor's words into a `Generation`, and a `Task` back; they decide nothing."""

from fluxserve.api.app import create_app
from fluxserve.api.context import Context

__all__ = ["Context", "create_app"]
