"""The shelf: pictures on disk, by key; and how callers' pictures get there: fetched under guard, opened apart.

It knows nothing of tasks, tenants or the web framework.
"""

from fluxserve.storage.disk import Shelf
from fluxserve.storage.fetch import Fetcher, FetchError
from fluxserve.storage.guard import GuardedBackend
from fluxserve.storage.opener import Opened, Opener, OpenError

__all__ = ["FetchError", "Fetcher", "GuardedBackend", "OpenError", "Opened", "Opener", "Shelf"]
