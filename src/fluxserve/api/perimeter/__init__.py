"""The perimeter: what a request must pass before a door reads it.

gate           it came by a name of ours, and not from a stranger's page
"""

from fluxserve.api.perimeter.gate import Gate, Hosts

__all__ = ["Gate", "Hosts"]
