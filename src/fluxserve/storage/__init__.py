"""The shelf: pictures on disk, by key; and how callers' pictures get there: fetched under guard, opened apart.

The guard is for whatever goes to an address that a caller named. This room knows nothing of tasks, tenants or the web
framework.
"""

from fluxserve.storage.addresses import AddressError, raw, web_address
from fluxserve.storage.disk import OWNER_FILE, Shelf
from fluxserve.storage.fetch import Fetcher, FetchError
from fluxserve.storage.guard import BlockedAddressError, GuardedBackend
from fluxserve.storage.opener import Fit, Mask, Opened, Opener, OpenError
from fluxserve.storage.room import Room

__all__ = [
    "OWNER_FILE",
    "AddressError",
    "BlockedAddressError",
    "FetchError",
    "Fetcher",
    "Fit",
    "GuardedBackend",
    "Mask",
    "OpenError",
    "Opened",
    "Opener",
    "Room",
    "Shelf",
    "raw",
    "web_address",
]
