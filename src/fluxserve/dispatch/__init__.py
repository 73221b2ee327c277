"""The floor: which waiting task goes to which free slot, and what is done when a job ends.

It claims, hands over, notes progress, stores finished pictures and records endings. It does not draw and does not speak
SQL or HTTP.
"""

from fluxserve.dispatch.dispatcher import Dispatcher
from fluxserve.dispatch.upkeep import Upkeep

__all__ = ["Dispatcher", "Upkeep"]
