"""The queue: every task's durable life, every chat completion's, and the credits that go with them.

This room speaks SQL and no other does. Each verb is one transaction: what it moves (state, credits, outputs, the word
to be sent of it) it moves together or not at all. It does not draw, store pictures, send anything, or know of HTTP.
"""

from fluxserve.tasks.accounts import Account, Accounts, Caller, Key
from fluxserve.tasks.completions import Completions
from fluxserve.tasks.database import Database
from fluxserve.tasks.engines import DatabaseError, open_postgresql, open_sqlite
from fluxserve.tasks.listener import Listener
from fluxserve.tasks.lists import Page, Sought
from fluxserve.tasks.migrate import migrate, open_database
from fluxserve.tasks.outbox import Attempt, DeliveryLog, Letter, Outbox
from fluxserve.tasks.pictures import Stored
from fluxserve.tasks.queue import Held, Queue, Rules
from fluxserve.tasks.signals import Signals

__all__ = [
    "Account",
    "Accounts",
    "Attempt",
    "Caller",
    "Completions",
    "Database",
    "DatabaseError",
    "DeliveryLog",
    "Held",
    "Key",
    "Letter",
    "Listener",
    "Outbox",
    "Page",
    "Queue",
    "Rules",
    "Signals",
    "Sought",
    "Stored",
    "migrate",
    "open_database",
    "open_postgresql",
    "open_sqlite",
]
