"""The shelf: finished pictures on disk, by key. It knows nothing of tasks, tenants or HTTP."""

from fluxserve.storage.disk import Shelf

__all__ = ["Shelf"]
