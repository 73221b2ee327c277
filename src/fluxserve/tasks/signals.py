"""Word that something has changed, for whoever waits: in this process at once, and in every server that shares the
database.

A signal only says that it is time to look; what there is to see is in the database. Those who wait look from time to
time without one, too.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

from sqlalchemy import Connection, TextClause, text

from fluxserve.tasks.database import Database

T = TypeVar("T")
Clock = Callable[[Connection], float]
"""The time in unix seconds, asked inside a transaction."""

CHANNEL = "fluxserve"
WAKE = "wake"  # a task may have become claimable
CANCEL = "cancel"  # one that runs should be stopped
POST = "post"  # there may be a webhook to send


class Signals:
    """`wake`, `cancel_wished` and `post` are set by their signals; any other signal is the id of a task that changed.

    All events belong to the loop of the server; `give` is called there.
    """

    def __init__(self, database: Database) -> None:
        self.wake = asyncio.Event()
        self.cancel_wished = asyncio.Event()
        self.post = asyncio.Event()
        self._is_shared = database.is_shared
        self._listeners: dict[str, set[asyncio.Event]] = defaultdict(set)

    def announcing(self, connection: Connection, signals: Iterable[str], result: T) -> T:
        """Tell the other servers, once this transaction has been committed. Returns `result`."""
        if self._is_shared and (payloads := list(signals)):
            numbered = {f"payload_{number}": payload for number, payload in enumerate(payloads)}
            connection.execute(_notifying(len(payloads)), {"channel": CHANNEL, **numbered})
        return result

    def give(self, *signals: str) -> None:
        """In this process."""
        for signal in signals:
            match signal:
                case "wake":
                    self.wake.set()
                case "cancel":
                    self.cancel_wished.set()
                case "post":
                    self.post.set()
                case task_id:
                    for listener in self._listeners.get(task_id, ()):
                        listener.set()

    def give_all(self) -> None:
        """For whoever may have missed some."""
        self.give(WAKE, CANCEL, POST, *self._listeners)

    @contextmanager
    def listening(self, task_id: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever that task changes."""
        listener = asyncio.Event()
        self._listeners[task_id].add(listener)
        try:
            yield listener
        finally:
            self._listeners[task_id].discard(listener)
            if not self._listeners[task_id]:
                del self._listeners[task_id]


@cache
def _notifying(count: int) -> TextClause:
    return text(f"SELECT {', '.join(f'pg_notify(:channel, :payload_{number})' for number in range(count))}")
