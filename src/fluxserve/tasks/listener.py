"""Hears what other servers on the same PostgreSQL tell (see `signals`)."""

import asyncio
import logging

import psycopg

from fluxserve.tasks.database import Database
from fluxserve.tasks.engines import BUSY_SECONDS, KEEPALIVES
from fluxserve.tasks.signals import CHANNEL, Signals

log = logging.getLogger(__name__)

AGAIN_SECONDS = 1.0


class Listener:
    """A connection of its own, made again whenever it is lost. Whatever was missed meanwhile is made good by telling
    everyone to look."""

    def __init__(self, database: Database, signals: Signals) -> None:
        url = database.engine.url.set(drivername="postgresql")
        self._address = url.render_as_string(hide_password=False)
        self._signals = signals
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._loop = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self._listen()
            except (psycopg.Error, OSError) as error:
                log.warning("the database's signals are not heard: %s; trying again", " ".join(str(error).split()))
            await asyncio.sleep(AGAIN_SECONDS)

    async def _listen(self) -> None:
        connection = await psycopg.AsyncConnection.connect(
            self._address, autocommit=True, connect_timeout=BUSY_SECONDS, **KEEPALIVES
        )
        async with connection:
            await connection.execute(f"LISTEN {CHANNEL}")
            self._signals.give_all()
            async for notice in connection.notifies():
                self._signals.give(notice.payload)
