"""The doors. Each translates its vendor's words into a `Generation`, and a `Task` back; they decide nothing."""

from fluxserve.api.app import create_app
from fluxserve.api.context import Context
from fluxserve.api.inputs import Inputs
from fluxserve.api.perimeter import Hosts

__all__ = ["Context", "Hosts", "Inputs", "create_app"]
