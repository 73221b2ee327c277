"""What the floor knows of the hands."""

from dataclasses import dataclass

from fluxserve.domain.task import PUBLIC


@dataclass(frozen=True, slots=True)
class Slot:
    """A free place for one job: at `worker`, behind `ahead` jobs that it has already.

    `pool` is whose tasks the worker draws: everybody's, or those of the account with that id. `members` are those of
    its family that it surely has loaded when it comes to this place.
    """

    worker: str
    ahead: int
    pool: str = PUBLIC
    members: frozenset[str] = frozenset()
