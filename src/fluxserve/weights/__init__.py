"""Where weights lie on this machine, and how they get there.

`find` looks on the disk alone, and is all that the engine and the server use; `Puller` is what speaks to the hub and to
Civitai, for the command line alone. It loads no weights and never torch, and knows no settings: whoever asks says which
folder.
"""

from fluxserve.weights.errors import LicenceError, NotHereError, PullError, WeightsError
from fluxserve.weights.places import everything_here, find, is_here, lacking
from fluxserve.weights.sizes import in_words

__all__ = [
    "LicenceError",
    "NotHereError",
    "PullError",
    "WeightsError",
    "everything_here",
    "find",
    "in_words",
    "is_here",
    "lacking",
]
