"""What a source has of a package: the files of one version, to be brought together."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from fluxserve.domain.weights import Package
from fluxserve.weights.download import Remote


@dataclass(frozen=True, slots=True)
class Listing:
    """`revision` names the version, so that files of two never mix; `headers` go with each request for a file."""

    revision: str
    files: tuple[Remote, ...]
    headers: Mapping[str, str]


class Store(Protocol):
    """Who has weights to give: the hub, or Civitai."""

    def listing(self, package: Package) -> Listing:
        """Raises `StatusError` where it gives nothing, or `PullError`."""
        ...

    def refusal(self, package: Package, status: int) -> str:
        """Why it gives nothing, and what a person can do about it."""
        ...
