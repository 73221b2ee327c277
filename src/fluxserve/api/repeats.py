"""Requests with an Idempotency-Key: the first makes a task, and every later one is told of that task."""

from collections.abc import Iterator
from contextlib import contextmanager

from fluxserve.domain.errors import InFlight
from fluxserve.domain.task import Repeatable

RETRY_AFTER_SECONDS = 1


class InHand:
    """Those that this server is taking in, before the queue knows of them: a picture may take half a minute."""

    def __init__(self) -> None:
        self._keys: set[tuple[str, str]] = set()

    @contextmanager
    def taking(self, account_id: str, repeatable: Repeatable | None) -> Iterator[None]:
        """Raises `InFlight` if its twin is in hand already."""
        if repeatable is None:
            yield
            return
        key = (account_id, repeatable.key)
        if key in self._keys:
            raise InFlight(
                "Idempotency-Key: a request with this key is being taken in; ask again soon", RETRY_AFTER_SECONDS
            )
        self._keys.add(key)
        try:
            yield
        finally:
            self._keys.discard(key)
