"""The doors. Each translates its vendor's words into a `Generation`, and a `Task` back; they decide nothing."""

from fluxserve.api.app import create_app, refusal
from fluxserve.api.chat import Chat
from fluxserve.api.context import Context
from fluxserve.api.inputs import Inputs
from fluxserve.api.perimeter import Arrival, ArrivalRules, Hosts, Rates

__all__ = ["Arrival", "ArrivalRules", "Chat", "Context", "Hosts", "Inputs", "Rates", "create_app", "refusal"]
