"""The doctor: what would keep a server from drawing on this machine, and what to do about it.

`look` asks: the engine by a process of its own, the disks, the port. `findings` judges what was found and asks nothing,
so that it judges machines that nobody has as well. Nothing is changed or fetched, the database is not opened, and no
weights are loaded.
"""

from fluxserve.doctor.findings import Finding, compiles, drawn_on, findings, plans_for, pull_of
from fluxserve.doctor.found import Disk, Found, Port, Tools
from fluxserve.doctor.looking import EngineError, imagine, look, versions
from fluxserve.doctor.meaning import meanings

__all__ = [
    "Disk",
    "EngineError",
    "Finding",
    "Found",
    "Port",
    "Tools",
    "compiles",
    "drawn_on",
    "findings",
    "imagine",
    "look",
    "meanings",
    "plans_for",
    "pull_of",
    "versions",
]
