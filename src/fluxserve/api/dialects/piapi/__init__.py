"""PiAPI's task API, as the vendor's pages describe it.

requests       what a body may hold: the task types and their fields
generations    a checked request to a generation
answers        the envelope, the numbers of refusals and failures
door           the routes of tasks
events         a task followed as it is drawn
deliveries     the log of its webhook
account        the account and its history
sub_app        how refusals and faults are answered
"""

from fluxserve.api.dialects.piapi.account import create_account_app
from fluxserve.api.dialects.piapi.answers import ERROR_CODES, webhook_body
from fluxserve.api.dialects.piapi.door import create_app
from fluxserve.api.dialects.piapi.sub_app import no_route, refusal

__all__ = ["ERROR_CODES", "create_account_app", "create_app", "no_route", "refusal", "webhook_body"]
