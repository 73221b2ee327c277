"""What every door is given."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fluxserve.api.inputs import Inputs
from fluxserve.api.perimeter import Hosts, Rates
from fluxserve.api.switchboard import Switchboard
from fluxserve.domain.catalog import Means, Quality
from fluxserve.storage import Shelf
from fluxserve.tasks import Accounts, Outbox, Queue


@dataclass(frozen=True, slots=True)
class Context:
    """`lora_names`, `can_draw` and `doing` are asked anew at each request; `public_url` has no slash at its end.

    `abilities` are those of the family that draws. Requests come by one of `hosts`; `origins` are of pages elsewhere
    that may call us. `admin_key` opens /admin, which is closed without one. A caller of a synchronous door waits for
    `wait_seconds` at most; `qualities` are what OpenAI's are drawn with."""

    queue: Queue
    accounts: Accounts
    outbox: Outbox
    shelf: Shelf
    inputs: Inputs
    switchboard: Switchboard
    rates: Rates
    hosts: Hosts
    origins: frozenset[str]
    public_url: str
    largest_body: int
    wait_seconds: float
    qualities: Mapping[Quality, Means]
    abilities: frozenset[str]
    lora_names: Callable[[], frozenset[str]]
    can_draw: Callable[[], bool]
    doing: Callable[[], dict[str, str]]
    admin_key: str | None = None

    def picture_url(self, output_id: str, key: str) -> str:
        return f"{self.public_url}/files/{output_id}.{key.rsplit('.', 1)[-1]}"
