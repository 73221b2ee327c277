"""The queue: every task's durable life, and the credits that go with it.

This room speaks SQL and no other does. Each verb is one transaction: what it moves (state, credits, outputs) it moves
together or not at all. It does not draw, store pictures, or know of HTTP.
"""

from fluxserve.tasks.accounts import Account, Accounts
from fluxserve.tasks.database import Database, open_engine
from fluxserve.tasks.migrate import migrate
from fluxserve.tasks.queue import Held, Queue, Rules

__all__ = ["Account", "Accounts", "Database", "Held", "Queue", "Rules", "migrate", "open_engine"]
