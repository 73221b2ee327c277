"""What the floor knows of the hands."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Slot:
    """A free place for one job: at `worker`, behind `ahead` jobs that it has already."""

    worker: str
    ahead: int
