"""The perimeter: what a request must pass before a door reads it.

arrival        it is there whole and in time, and its client does not hold too many connections
gate           it came by a name of ours, and not from a stranger's page
clients        who counts as one client
"""

from fluxserve.api.perimeter.arrival import Arrival, ArrivalRules
from fluxserve.api.perimeter.gate import Gate, Hosts

__all__ = ["Arrival", "ArrivalRules", "Gate", "Hosts"]
