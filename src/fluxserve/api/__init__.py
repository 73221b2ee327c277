"""The doors. Each translates its vendor's words into a `Generation`, and a `Task` back; they decide nothing."""

from fluxserve.api.app import create_app, refusal
from fluxserve.api.context import Context
from fluxserve.api.inputs import Inputs
from fluxserve.api.perimeter import Arrival, ArrivalRules, Hosts, Rates
from fluxserve.api.switchboard import Switchboard

__all__ = [
    "Arrival",
    "ArrivalRules",
    "Context",
    "Hosts",
    "Inputs",
    "Rates",
    "Switchboard",
    "create_app",
    "refusal",
]
