"""The post: drains the outbox. It signs a webhook, sends it, and has the attempt written down.

It does not decide who is to hear of what, nor what a webhook says: the queue does, and the door whose words they are.
"""

from fluxserve.webhooks.sender import Sender

__all__ = ["Sender"]
