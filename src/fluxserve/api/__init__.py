"""The doors. Each translates its vendor's words into a `Generation`, and a `Task` back; they decide nothing."""

from fluxserve.api.app import create_app
from fluxserve.api.context import Context
from fluxserve.api.inputs import Inputs

__all__ = ["Context", "Inputs", "create_app"]
