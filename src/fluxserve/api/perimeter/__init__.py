"""The perimeter: what a request must pass before a door reads it.

arrival        it is there whole and in time, and its client does not hold too many connections
gate           it came by a name of ours, and not from a stranger's page
rates          its key does not come too often, and its client does not try one key after another
clients        who counts as one client
"""

from fluxserve.api.perimeter.arrival import Arrival, ArrivalRules
from fluxserve.api.perimeter.gate import Gate, Hosts
from fluxserve.api.perimeter.rates import Rates

__all__ = ["Arrival", "ArrivalRules", "Gate", "Hosts", "Rates"]
